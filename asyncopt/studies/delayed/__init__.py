"""Effects of stale gradients on training, under injected delays."""
