"""What `task` in conf can be: one file for each."""
