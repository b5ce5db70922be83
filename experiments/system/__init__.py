"""The machine: environment, clocks, memory limits."""
