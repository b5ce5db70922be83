"""Runs and measures: clips in, records out."""
