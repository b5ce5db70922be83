"""Reads records, compares and draws them. Imports neither torch nor the model nor the experiments.

`load`, `load_evaluations` and `variants_table` are for notebooks; `python -m analysis --help` lists the commands.
"""

from analysis.records.load import load, load_evaluations, load_micro
from analysis.results.pooling import variants_table

__all__ = ["load", "load_evaluations", "load_micro", "variants_table"]
