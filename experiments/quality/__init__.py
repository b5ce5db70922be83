"""Distance to the reference and to the truth."""
