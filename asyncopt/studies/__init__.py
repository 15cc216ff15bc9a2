"""Studies: what the commands measure, from Python."""
