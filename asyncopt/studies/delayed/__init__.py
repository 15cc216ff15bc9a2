"""``asyncopt staleness``: what stale gradients do to training."""
