"""What a user can type: one file for each command of `python -m analysis`."""
