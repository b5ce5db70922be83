"""Training as tasks: the loop, its checkpoints and processes, and what is measured of it (docs/training.md)."""
