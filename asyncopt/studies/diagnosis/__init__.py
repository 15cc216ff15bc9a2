"""``asyncopt doctor``: what a machine offers, what will hurt, and which mode will pay."""
