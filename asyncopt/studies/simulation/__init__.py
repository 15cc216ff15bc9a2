"""``asyncopt simulate``: what more cores than this machine has would do, by costs measured here."""
