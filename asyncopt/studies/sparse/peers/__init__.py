"""Other libraries on the same problems; the only place that imports them."""
