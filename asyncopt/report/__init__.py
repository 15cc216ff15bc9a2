"""Pages, tables and plots as text, for runs and for comparisons; knows of neither."""
