"""`experiment=drift`: where along the way a variant leaves the fp32 reference, and where a value stops being finite.

Two runs of the variant are compared with the reference, unit by unit (stages, then the generator's parts and each
transformer block): one as it is, in which errors add up (`accumulated`), and one in which every unit is given the
reference's input, so that what it gives holds its own error alone (`own`).
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from experiments.data import LoadedClip, load
from experiments.errors import log_failure
from experiments.record.record import variant
from experiments.system.environment import choose_device, describe
from experiments.tasks.divergence_plot import draw
from experiments.tasks.divergence_probe import ReferenceRun, follow, units_of
from experiments.tasks.inpaint import load_networks
from propainter import InputError, Pipeline
from propainter.inference.streaming import Streaming
from propainter.io.atomic import atomic_write
from variants import GROUPS, UnsupportedError, apply, precision

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
        """Whether its error exceeds the bound, or is not finite."""
        return which in self.non_finite or (getattr(self, which) or 0) > bound

    def shown(self, which: str) -> str:
        """The error as it stands in the table."""
        error = getattr(self, which)
        return "not finite" if which in self.non_finite else "not seen" if error is None else f"{error:.2e}"


@dataclass
class Report:
    """What `measure_drift` found, units in the order in which they run."""

    bound: float
    units: list[Drift]

    def first_over_bound(self, which: str) -> Drift | None:
        """The first unit whose error ("own" or "accumulated") exceeds the bound or is not finite."""
        return next((drift for drift in self.units if drift.over(which, self.bound)), None)

    def first_non_finite(self, which: str) -> Drift | None:
        """The first unit with a value that is not finite."""
        return next((drift for drift in self.units if which in drift.non_finite), None)

    def as_json(self) -> dict[str, Any]:
        """As `drift.json` has it: strict JSON, units by name."""
        finds = {"first_over_bound": self.first_over_bound, "first_non_finite": self.first_non_finite}
        firsts = {key: {which: _name(find(which)) for which in KINDS} for key, find in finds.items()}
        return {"bound": self.bound, **firsts, "units": [asdict(drift) for drift in self.units]}

    def sentences(self) -> list[str]:
        """What was found, in words."""
        said = []
        for which, what in KINDS.items():
            broken, first = self.first_non_finite(which), self.first_over_bound(which)
            if broken:
                said.append(f"{what}, the first value that is not finite is in {broken.unit}")
            if first is None:
                said.append(f"{what}, no unit is off by more than {self.bound:g}")
            elif first is not broken:
                said.append(
                    f"{what}, the first unit off by more than {self.bound:g} is {first.unit} ({first.shown(which)})"
                )
        return said


def run(cfg: DictConfig, bound: float) -> str:
    """Measure the drift of the configured variant; returns a status.

    Writes `drift.json`, `drift.md` and `drift.png` into the run folder, and prints the table.

    Args:
        bound: relative error above which a unit is named.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        about, report = _measure(cfg, bound)
        with atomic_write(folder / "drift.json") as partial:
            partial.write_text(json.dumps(about | report.as_json(), indent=2, allow_nan=False) + "\n")
        with atomic_write(folder / "drift.md") as partial:
            partial.write_text(markdown(report) + "\n")
        with atomic_write(folder / "drift.png") as partial:
            draw(report.as_json(), about["variant"]["id"], partial)
    except Exception as error:
        return log_failure(error)[0]
    print(markdown(report))
    print(f"run folder: {folder}")
    return "ok"


def _measure(cfg: DictConfig, bound: float) -> tuple[dict[str, Any], Report]:
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not 0 < bound < math.inf:
        raise InputError(f"task.bound is {bound!r}; give a relative error above 0, such as 0.008")
    about = {"variant": variant(cfg)}
    device, schedule, clip = choose_device(str(cfg.device)), instantiate(cfg.schedule), load(instantiate(cfg.data))
    if not clip.masks.any():
        raise InputError("the masks have no hole, and nothing is computed that could drift; give masks with a hole")
    networks, weights = load_networks(cfg.weights)
    same_weights = {**cfg.weights, "source": weights["source"]}
    reference = precision.fp32(Pipeline(load_networks(same_weights)[0].to(device), schedule))
    changed = apply(Pipeline(networks.to(device), schedule), {group: instantiate(cfg[group]) for group in GROUPS})
    report = measure_drift(reference, changed, clip, bound)
    return about | {"weights": weights, "environment": describe(device), "effective": changed.effective}, report


def measure_drift(reference: Pipeline, variant: Pipeline, clip: LoadedClip, bound: float) -> Report:
    """Relative error of each unit of a variant against the reference, own and accumulated.

    The reference's generator runs window by window beside the variant's, so that of its activations no more than one
    window's are kept; of its frames, masks and flows, the whole clip's.

    Args:
        reference: the published pipeline in fp32.
        variant: with networks of its own, on the same device and with the same schedule.
        clip: with a hole.
        bound: relative error above which a unit is named.

    Raises:
        Unsupported: the variant's tensors have other shapes, as with chunks of the clip, or it streams.
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
    """The report as a Markdown table, and what was found under it."""
    lines = ["| unit | stage | own error | accumulated error | dtype |", "| --- | --- | --- | --- | --- |"]
    for drift in report.units:
        own, accumulated = (drift.shown(which) for which in KINDS)
        lines.append(f"| {drift.unit} | {drift.stage} | {own} | {accumulated} | {drift.dtype} |")
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in report.sentences())])
