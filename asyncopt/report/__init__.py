"""Pages, tables and plots of runs and studies; imports neither of them."""
