"""Monitoring of a run: samples over time, and views, files and reports made from them."""
