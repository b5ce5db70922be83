"""`experiment=drift`: where along the way a variant leaves the fp32 reference, and where a value stops being finite.

Two runs of the variant are compared with the reference, unit by unit (stages, then the generator's parts and each
transformer block): one as it is, in which errors add up (`accumulated`), and one in which every unit is given the
reference's input, so that what it gives holds its own error alone (`own`).
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments.data import LoadedClip
from experiments.data.weights import load_networks
from experiments.record.record import describe_weights, variant
from experiments.system.environment import describe
from experiments.tasks.base import Findings, Setup, markdown_table, run_task
from experiments.tasks.divergence_plot import draw
from experiments.tasks.divergence_probe import ReferenceRun, follow, units_of
from propainter import InputError, Pipeline
from propainter.inference.streaming import Streaming
from variants import UnsupportedError, build_pipeline, precision

log = logging.getLogger(__name__)

KINDS = {"own": "given the reference's input", "accumulated": "in a run of the variant's own"}
"""The two errors of a unit, and what they are in words."""


@dataclass
class Drift:
    """Relative errors of one unit, ||variant - reference|| / ||reference|| over all its calls of a run.

    Attributes:
        unit: its name; `stage` is the stage it belongs to.
        own, accumulated: None where a value is not finite, or where the variant has no such unit of the same shape.
        dtype: of what the variant's unit gave; empty where it has none.
        non_finite: those of the two runs in which a value is not finite.
    """

    unit: str
    stage: str
    own: float | None = None
    accumulated: float | None = None
    dtype: str = ""
    non_finite: list[str] = field(default_factory=list)

    def over(self, which: str, bound: float) -> bool:
        """Return whether its error exceeds the bound, or is not finite."""
        return which in self.non_finite or (getattr(self, which) or 0) > bound

    def shown(self, which: str) -> str:
        """Return the error as the table has it."""
        error = getattr(self, which)
        return "not finite" if which in self.non_finite else "not seen" if error is None else f"{error:.2e}"


@dataclass
class Report:
    """What `measure_drift` found, units in the order in which they run."""

    bound: float
    units: list[Drift]

    def first_over_bound(self, which: str) -> Drift | None:
        """Return the first unit whose error ("own" or "accumulated") exceeds the bound or is not finite."""
        return next((drift for drift in self.units if drift.over(which, self.bound)), None)

    def first_non_finite(self, which: str) -> Drift | None:
        """Return the first unit with a value that is not finite."""
        return next((drift for drift in self.units if which in drift.non_finite), None)

    def as_json(self) -> dict[str, Any]:
        """Return the report as `drift.json` has it, units by name."""
        finds = {"first_over_bound": self.first_over_bound, "first_non_finite": self.first_non_finite}
        firsts = {key: {which: _name(find(which)) for which in KINDS} for key, find in finds.items()}
        return {"bound": self.bound, **firsts, "units": [asdict(drift) for drift in self.units]}

    def sentences(self) -> list[str]:
        """Return the first units off the bound or not finite, in sentences."""
        found = []
        for which, what in KINDS.items():
            broken, first = self.first_non_finite(which), self.first_over_bound(which)
            if broken:
                found.append(f"{what}, the first value that is not finite is in {broken.unit}")
            if first is None:
                found.append(f"{what}, no unit is off by more than {self.bound:g}")
            elif first is not broken:
                found.append(
                    f"{what}, the first unit off by more than {self.bound:g} is {first.unit} ({first.shown(which)})"
                )
        return found


def run(cfg: DictConfig, bound: float) -> str:
    """Measure the drift of the configured variant; return a status.

    See `run_task`; the files are `drift`, and a picture `drift.png`.

    Args:
        bound: relative error above which a unit is named.
    """
    return run_task("drift", lambda: _findings(cfg, bound))


def _findings(cfg: DictConfig, bound: float) -> Findings:
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not 0 < bound < math.inf:
        raise InputError(f"task.bound is {bound!r}; give a relative error above 0, such as 0.008")
    described, setup = variant(cfg), Setup.of(cfg)
    if not setup.clip.masks.any():
        raise InputError("the masks have no hole, and nothing is computed that could drift; give masks with a hole")
    networks, weights = load_networks(cfg.weights)
    reference = precision.fp32(setup.published(weights))
    changed = build_pipeline(networks.to(setup.device), setup.schedule, cfg)
    report = measure_drift(reference, changed, setup.clip, bound)
    about = {"variant": described, "weights": describe_weights(weights), "environment": describe(setup.device)}
    document = {**about, "effective": changed.effective, **report.as_json()}
    return Findings(document, markdown(report), draw=partial(draw, report.as_json(), described["id"]))


def measure_drift(reference: Pipeline, variant: Pipeline, clip: LoadedClip, bound: float) -> Report:
    """Measure the relative error of each unit of a variant against the reference, own and accumulated.

    The reference's generator takes turns with the variant's, window by window: its activations are kept for one window,
    its frames, masks and flows for the whole clip.

    Args:
        reference: the published pipeline in fp32.
        variant: with networks of its own, on the same device and with the same schedule.
        clip: with a hole.
        bound: relative error above which a unit is named.

    Raises:
        UnsupportedError: the variant's tensors have other shapes, as with chunks of the clip, or it streams.
        NonFiniteError: the reference itself has a value that is not finite.
    """
    if isinstance(variant.stage_runner, Streaming):
        raise UnsupportedError(
            "drift gives each stage the whole clip; leave residency=streaming out, it changes no number"
        )
    leader = ReferenceRun(reference, variant, clip)
    drifts = {unit: Drift(unit, stage) for unit, stage in units_of(variant).items()}
    for which in KINDS:
        errors: dict[str, _RelativeError] = {}

        def note(unit: str, given: Sequence[Tensor], wanted: Sequence[Tensor], errors: dict = errors) -> None:
            errors.setdefault(unit, _RelativeError()).add(given, wanted)

        log.debug("running the variant, %s", KINDS[which])
        unlike = follow(leader, variant, clip, note, forced=which == "own")
        for unit in errors.keys() - unlike:
            error = errors[unit]
            drifts[unit].dtype = error.dtype
            if error.finite:
                setattr(drifts[unit], which, error.value)
            else:
                drifts[unit].non_finite.append(which)
    return Report(bound, list(drifts.values()))


def _name(drift: Drift | None) -> str | None:
    return drift.unit if drift else None


class _RelativeError:
    """||given - wanted|| / ||wanted|| over all tensors that were added."""

    def __init__(self) -> None:
        self.dtype = ""
        self._difference = self._size = 0.0

    def add(self, given: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
        for own, other in zip(given, wanted, strict=True):
            self.dtype = str(own.dtype).removeprefix("torch.")
            self._difference += _squares(own.float() - other.float())
            self._size += _squares(other)

    @property
    def finite(self) -> bool:
        return math.isfinite(self._difference)

    @property
    def value(self) -> float:
        return math.sqrt(self._difference / max(self._size, 1e-30))


def _squares(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def markdown(report: Report) -> str:
    """Return the report as a Markdown table, with its sentences under it."""
    cells = [[unit.unit, unit.stage, *map(unit.shown, KINDS), unit.dtype] for unit in report.units]
    table = markdown_table(["unit", "stage", "own error", "accumulated error", "dtype"], cells)
    return "\n".join([table, "", *(f"- {sentence}" for sentence in report.sentences())])
