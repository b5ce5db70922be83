"""The search itself: Optuna proposes a combination, somebody measures it, bounds say whether it may be used."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from typing import Any

from propainter import InputError

Space = Mapping[str, Sequence[str]]
"""Group -> its options that take part."""

Combination = tuple[tuple[str, str], ...]
"""Group and option, in the space's order."""

GIB = 2**30

UNKNOWN = 1e3
"""By how much a bound is broken where the figure is not known: far beyond any that is."""

NOT_RUN = "not_run"
"""The bound that a combination breaks which did not run."""

STARTUP = 4
"""Combinations before the sampler's model is asked: those of the start, then by chance."""


@dataclass(frozen=True)
class Bounds:
    """What a combination has to keep; None where nothing is asked.

    Attributes:
        max_vram_gb, max_memory_gb: of the GPU's and of the process's memory, in GiB.
        min_psnr_hole_db: PSNR in the hole against the reference, in dB.
        max_psnr_loss_db: what PSNR in the hole against the truth may lose to the reference's, in dB.
    """

    max_vram_gb: float | None = None
    max_memory_gb: float | None = None
    min_psnr_hole_db: float | None = None
    max_psnr_loss_db: float | None = None

    def excess(self, record: Mapping[str, Any]) -> dict[str, float]:
        """Return by how much a record breaks each asked bound, above 0 where it does; `UNKNOWN` if not known."""
        memory, quality = record.get("memory") or {}, record.get("quality") or {}
        truth = quality.get("truth") or {}
        peak = memory.get("peak_bytes")
        gib = None if peak is None else peak / GIB
        kind = memory.get("kind")
        psnr = math.inf if quality.get("identical") else quality.get("psnr_hole_db")
        reference, own = truth.get("reference_psnr_hole_db"), truth.get("psnr_hole_db")
        loss = None if reference is None or own is None else reference - own
        figures = {
            "max_vram_gb": (gib if kind == "vram" else None, self.max_vram_gb, 1),
            "max_memory_gb": (gib if kind == "rss" else None, self.max_memory_gb, 1),
            "min_psnr_hole_db": (psnr, self.min_psnr_hole_db, -1),
            "max_psnr_loss_db": (loss, self.max_psnr_loss_db, 1),
        }
        return {
            name: UNKNOWN if value is None else max(-UNKNOWN, sign * (value - bound))
            for name, (value, bound, sign) in figures.items()
            if bound is not None
        }


@dataclass(frozen=True)
class Outcome:
    """What measuring a combination gave.

    Attributes:
        latency_s, peak_bytes: None where it did not run.
        excess: of `Bounds.excess`, or `NOT_RUN`.
        status: of its record.
        reason: why it did not run.
    """

    latency_s: float | None
    peak_bytes: float | None
    excess: Mapping[str, float] = field(default_factory=dict)
    status: str = "ok"
    reason: str | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any], bounds: Bounds) -> "Outcome":
        """Return the outcome of a record."""
        latency, memory = record.get("latency") or {}, record.get("memory") or {}
        seconds = latency.get("median_s") or latency.get("first_s")
        if record["status"] != "ok" or not seconds or not memory.get("peak_bytes"):
            broken = dict.fromkeys((NOT_RUN, *bounds.excess({})), UNKNOWN)
            return cls(None, None, broken, record["status"], record.get("reason"))
        return cls(seconds, memory["peak_bytes"], {NOT_RUN: 0.0, **bounds.excess(record)})

    @property
    def fits(self) -> bool:
        """Return whether it ran and keeps all bounds."""
        return self.latency_s is not None and all(value <= 0 for value in self.excess.values())

    @property
    def beyond(self) -> float:
        """Return how far it is beyond the bounds, 0 within."""
        return sum(max(0.0, value) for value in self.excess.values())


@dataclass(frozen=True)
class Trial:
    """One combination and its outcome, in the order in which they were measured."""

    combination: Combination
    outcome: Outcome


class Search:
    """Propose combinations that were not measured yet, those of `start` first.

    Args:
        space: what may be combined.
        start: combinations to begin with.
        seed: of the sampler. The same outcomes give the same proposals.

    Raises:
        InputError: Optuna is not installed.
    """

    def __init__(self, space: Space, start: Sequence[Combination], seed: int) -> None:
        if find_spec("optuna") is None:
            raise InputError("experiment=tune needs optuna; pip install 'propainter-bench[tuning]'")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.trials: list[Trial] = []
        self._known: dict[Combination, Outcome] = {}
        self._chance = random.Random(seed)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        self._study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        for combination in start:
            self._study.enqueue_trial(dict(combination), skip_if_exists=True)

    @property
    def size(self) -> int:
        """Return how many combinations there are."""
        return math.prod(len(options) for options in self.space.values())

    def measure(self, outcome_of: Callable[[Combination], Outcome]) -> Trial | None:
        """Measure the next combination, and return it with its outcome; None where all are known."""
        import optuna

        if len(self._known) >= self.size:
            return None
        asked = self._study.ask()
        combination = self._suggested(asked)
        if combination in self._known:
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)  # nothing to learn from it
            self._study.enqueue_trial(dict(self._nearest_unknown()))
            asked = self._study.ask()
            combination = self._suggested(asked)
        outcome = outcome_of(combination)
        self._tell(asked, outcome)
        return self._added(combination, outcome)

    def _suggested(self, asked: Any) -> Combination:
        return tuple(
            (group, str(asked.suggest_categorical(group, list(options)))) for group, options in self.space.items()
        )

    def _nearest_unknown(self) -> Combination:
        """Return a combination that is not known and differs from the best one in as few groups as any, by chance."""
        unknown = [one for one in combinations(self.space) if one not in self._known]
        best = by_speed(self.trials)[:1] or self.trials[:1]
        self._chance.shuffle(unknown)
        return min(unknown, key=lambda one: sum(a != b for a, b in zip(one, best[0].combination, strict=True)))

    def _tell(self, asked: Any, outcome: Outcome) -> None:
        for name, value in outcome.excess.items():
            asked.set_constraint(name, value)
        if outcome.latency_s is None:
            # Worse than all that ran: a failed trial would tell the sampler nothing.
            slowest = max((one.outcome.latency_s or 0.0 for one in self.trials), default=0.0) or UNKNOWN
            largest = max((one.outcome.peak_bytes or 0.0 for one in self.trials), default=0.0) or UNKNOWN * GIB
            self._study.tell(asked, [2 * slowest, 2 * largest])
        else:
            assert outcome.peak_bytes is not None
            self._study.tell(asked, [outcome.latency_s, outcome.peak_bytes])

    def _added(self, combination: Combination, outcome: Outcome) -> Trial:
        self._known[combination] = outcome
        trial = Trial(combination, outcome)
        self.trials.append(trial)
        return trial


def combinations(space: Space) -> Iterator[Combination]:
    """Yield all combinations of a space."""
    for options in product(*space.values()):
        yield tuple(zip(space, options, strict=True))


def by_speed(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that keep the bounds, the fastest first."""
    return sorted((trial for trial in trials if trial.outcome.fits), key=lambda trial: trial.outcome.latency_s or 0.0)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials within the bounds that no other one beats in both latency and memory, by growing memory."""
    found: list[Trial] = []
    for trial in sorted(
        by_speed(trials), key=lambda one: (one.outcome.peak_bytes or 0.0, one.outcome.latency_s or 0.0)
    ):
        if not found or (trial.outcome.latency_s or 0.0) < (found[-1].outcome.latency_s or 0.0):
            found.append(trial)
    return found
