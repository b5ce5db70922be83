"""How a run is measured: the config group `measure` without its baseline and extra passes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Options:
    """How many runs are timed.

    Attributes:
        target_relative_ci: timed runs go on until half the 95% interval's width over its centre is under this; None
            makes `max_samples` of them.
        min_samples, max_samples: bounds of their number; with a max of 0 nothing is timed.
        max_seconds: for the timed runs; at least one is made.
        max_warmups: most runs between the first and the timed ones, until two in a row agree within the target.
        min_pairs: pairs of runs with a baseline, at least.
    """

    target_relative_ci: float | None = 0.10
    min_samples: int = 3
    max_samples: int = 30
    max_seconds: float = 30.0
    max_warmups: int = 2
    min_pairs: int = 6

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Options":
        """Make options of the config group `measure`."""
        return cls(**{item.name: settings[item.name] for item in fields(cls)})
