"""Benchmarks: `pytest benches` measures, `python -m benches.report` makes tables of it."""
