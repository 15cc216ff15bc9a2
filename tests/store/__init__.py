"""The store: a sealed segment that is right, private to its user, and gone when it is not used."""
