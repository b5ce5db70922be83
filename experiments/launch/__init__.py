"""Start runs: the command line, one process for a run, sweeps."""
