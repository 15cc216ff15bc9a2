"""Watching a run: samples over time, and the views, files and reports made of them."""
