"""Networks that workers train together, and what their training is put through."""
