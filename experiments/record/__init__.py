"""The record of a run, and what is written beside it."""
