"""Syncs compared on dense problems: networks, and a contention microbenchmark."""
