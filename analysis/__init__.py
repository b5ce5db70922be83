"""Reads records, compares and draws them. Imports neither torch nor the model."""

from analysis.records import load

__all__ = ["load"]
