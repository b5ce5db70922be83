"""Predict a run on a GPU from its operations, without a GPU."""
