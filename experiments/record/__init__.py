"""The record of a run, and its other files."""
