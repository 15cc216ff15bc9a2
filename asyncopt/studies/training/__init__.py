"""What runs in the workers of a measurement, and what their parent learns of it."""
