"""Benchmarks: `pytest benches` measures, `python -m benches.report` formats the tables."""
