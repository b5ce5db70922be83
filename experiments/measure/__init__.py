"""Time and memory of a pipeline: protocol, statistics, profiles."""
