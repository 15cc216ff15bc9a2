"""Data for sparse models: files, downloads, installed sets, and made-up ones."""
