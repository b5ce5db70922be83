"""Series of each variant over versions of code and torch, on each machine, and the steps in them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from analysis.results import format as figures
from analysis.results import pooling
from analysis.results.pairing import same_variant
from analysis.results.pooling import STAGES, Row, architecture, limits, options, truth_decibel
from analysis.results.steps import Step, levels, steps

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FIGURES", "Figure", "Found", "Point", "Series", "find_steps", "machine", "series_of"]

DECIBEL_LEAST = 0.1
"""Smallest change of a PSNR that counts as a step, in dB."""

RATIO_LEAST = 0.01
"""Smallest change of a time, a speedup or a memory that counts as a step, as a share."""


@dataclass(frozen=True)
class Figure:
    """Describe a figure that has a history.

    Attributes:
        key: of the JSON and CSV files.
        title: for people.
        unit: "s", "x", "MiB" or "dB".
        smaller_is_better: or larger.
        value: of a pooled row; None where it is not known.
        interval: its 95% interval; None where it has none.
        doubt: the column that says why the figure is doubtful; None where it never is.
    """

    key: str
    title: str
    unit: str
    smaller_is_better: bool
    value: Callable[[Row], float | None]
    interval: Callable[[Row], Sequence[float] | None] = lambda row: None
    doubt: str | None = None

    @property
    def in_decibels(self) -> bool:
        """Return whether changes are differences in dB; else they are ratios."""
        return self.unit == "dB"

    @property
    def least(self) -> float:
        """Return the smallest change that counts as a step, on the scale of `on_scale`."""
        return DECIBEL_LEAST if self.in_decibels else math.log1p(RATIO_LEAST)

    def on_scale(self, value: float) -> float:
        """Return a value on the scale on which steps are searched: dB, or a logarithm."""
        return value if self.in_decibels else math.log(value)

    def shown(self, value: float) -> str:
        """Return a value as text, with its unit."""
        digits = 3 if self.unit == "s" and value < 1 else 0 if self.unit == "MiB" else 2
        return f"{value:,.{digits}f}{'' if self.unit == 'x' else ' '}{self.unit}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _paired_speedup(row: Row) -> float | None:
    """Return the speedup over published; measured apart it would move with every disturbance of published too."""
    over_published = pooling.name(row.get("speedup.baseline")) == "published"
    return row.get("speedup.median") if row.get("speedup.kind") == "paired" and over_published else None


def _mib(row: Row) -> float | None:
    peak = row.get("memory.peak_bytes")
    return None if not peak else peak / 2**20


FIGURES = (
    Figure(
        *("latency_s", "latency", "s", True, lambda row: row.get("latency.median_s")),
        *(lambda row: row.get("latency.ci95_s"), "doubt.latency"),
    ),
    Figure(
        *("speedup", "speedup over published", "x", False, _paired_speedup),
        *(lambda row: row.get("speedup.ci95"), "doubt.speedup"),
    ),
    Figure("peak_mib", "peak memory", "MiB", True, _mib, doubt="doubt.memory"),
    Figure("truth_psnr_hole_db", "PSNR to the truth", "dB", False, lambda row: _finite(truth_decibel(row))),
    Figure("psnr_hole_db", "agreement with the reference", "dB", False, lambda row: _finite(pooling.decibel(row))),
)
"""The figures that have a history."""


@dataclass(frozen=True)
class Point:
    """Hold one variant's pooled row of one set of records.

    Attributes:
        set: the folder that the set's run folders lie in.
        row: of `variants_table` of that set alone.
    """

    set: str
    row: Row

    @property
    def started(self) -> str:
        """Return when the measurement began, in ISO 8601; "" where not known."""
        return str(self.row.get("run.started") or "")

    @property
    def commit(self) -> str:
        """Return the commit in eight digits, with "+" where files were changed; "unknown" without one."""
        commit = self.row.get("environment.commit")
        return (str(commit)[:8] if commit else "unknown") + ("+" if self.row.get("environment.dirty") else "")

    @property
    def version(self) -> str:
        """Return code and torch: "1a2b3c4d, torch 2.15.0"."""
        return f"{self.commit}, torch {self.row.get('environment.torch')}"


@dataclass
class Series:
    """Hold one variant's points on one machine, one clip and one set of weights, in time's order."""

    machine: str
    points: list[Point] = field(default_factory=list)

    @property
    def last(self) -> Row:
        """Return the newest row."""
        return self.points[-1].row

    @property
    def name(self) -> str:
        """Return the variant's name, with what differs from its namesakes where a set knew several."""
        return str(self.last.get("variant.label") or self.last["variant.name"])

    @property
    def setting(self) -> str:
        """Return clip, weights and limits."""
        limited = ", ".join(f"{key}={pooling.plain(value)}" for key, value in limits(self.last).items())
        return ", ".join(part for part in (figures.size(self.last), figures.weights(self.last), limited) if part)

    def sound(self, figure: Figure) -> list[tuple[int, float]]:
        """Return the position and the value of each point whose figure is known and not doubtful."""
        values = [(at, figure.value(point.row), point.row) for at, point in enumerate(self.points)]
        return [
            (at, float(value))
            for at, value, row in values
            if value and not (figure.doubt is not None and row.get(figure.doubt))
        ]


@dataclass(frozen=True)
class Found:
    """Hold one step of one figure of one series.

    Attributes:
        position: of the first point after it, in the series' points.
        change: "rose by 12% (8% to 16%)".
        worse: whether it changed for the worse.
        stage: of a latency, the stage that changed most, and how; "" otherwise.
    """

    series: Series
    figure: Figure
    step: Step
    position: int
    change: str
    worse: bool
    stage: str = ""

    @property
    def sentence(self) -> str:
        """Return the step in a sentence."""
        before, after = (self.series.points[at] for at in (self.position - 1, self.position))
        where = f"{self.series.name}, {self.series.setting}, on {self.series.machine}"
        stage = f" {self.stage}." if self.stage else ""
        word = "worse" if self.worse else "better"
        text = f"{word}: {self.figure.title} of {where} {self.change} between {before.version} and {after.version}."
        return f"{text}{stage}"


def machine(row: Mapping[str, Any]) -> str:
    """Return the machine in words: the device, and for a CPU its threads, for a GPU its driver."""
    device = str(row.get("environment.device") or "an unknown device")
    if row.get("environment.device_type") == "cpu":
        threads = row.get("environment.threads")
        return device if threads is None else f"{device}, {int(threads)} thread{'s' if threads != 1 else ''}"
    driver = row.get("environment.driver")
    return device if driver is None else f"{device}, driver {driver}"


def series_of(frame: "pd.DataFrame") -> list[Series]:
    """Return the series of all records, each with its points in the order in which they were measured.

    Records of one variant in one folder of runs, of one commit and torch, are pooled to one point. A group that was
    added later does not break a series. Points that began at the same time keep the order of the files.

    Args:
        frame: of `load`.
    """
    points = sorted(_points(frame), key=lambda point: point.started)
    found: list[Series] = []
    for point in points:
        place, row = machine(point.row), point.row
        alike = (one for one in found if one.machine == place and _continues(one.last, row))
        # The same id first: of two variants that differ in a setting, one alone is this one.
        best = max(alike, key=lambda one: one.last.get("variant.id") == row.get("variant.id"), default=None)
        if best is None:
            found.append(best := Series(place))
        best.points.append(point)
    return found


def _points(frame: "pd.DataFrame") -> Iterator[Point]:
    if frame.empty:
        return
    sets = [(_folder(path), *version) for path, version in zip(frame["path"], _versions(frame), strict=True)]
    for one in dict.fromkeys(sets):
        chosen = frame[[other == one for other in sets]]
        begun: list[str] = list(chosen["run.started"].dropna()) if "run.started" in chosen.columns else []
        for row in pooling.rows_of(pooling.variants_table(chosen)):
            if row["status"] == "ok":
                yield Point(one[0], {**row, "run.started": min(begun, default="")})


def _folder(path: str) -> str:
    """Return the folder that the run folders lie in: runs of one sweep are one set."""
    return str(PurePath(path).parent.parent)


def _versions(frame: "pd.DataFrame") -> list[tuple[str, ...]]:
    columns = [f"environment.{key}" for key in ("commit", "dirty", "torch")]
    known = [frame[column] if column in frame.columns else [None] * len(frame) for column in columns]
    return [tuple(map(str, values)) for values in zip(*known, strict=True)]


def _continues(before: Row, after: Row) -> bool:
    alike = ("data.fingerprint", "weights.fingerprint", "memory.kind")
    return (
        all(before.get(key) == after.get(key) for key in alike)
        and architecture(before) == architecture(after)
        and limits(before) == limits(after)
        and options(before, "schedule") == options(after, "schedule")
        and same_variant(before, after)
    )


def find_steps(found: Sequence[Series]) -> list[Found]:
    """Find the steps of all figures of all series; those that made something worse first, then the newest.

    All comparisons of all series share one bound on false steps, `analysis.results.steps.FALSE_STEPS`.
    """
    sound = [(one, figure, one.sound(figure)) for one in found for figure in FIGURES]
    level = levels([len(values) for _, _, values in sound])
    all_steps = []
    for one, figure, values in sound:
        halves = [_half_width(figure, one.points[at].row) for at, _ in values]
        for step in steps([figure.on_scale(value) for _, value in values], halves, figure.least, level):
            all_steps.append(_described(one, figure, step, [at for at, _ in values]))
    return sorted(all_steps, key=lambda step: (not step.worse, -step.position))


def _half_width(figure: Figure, row: Row) -> float | None:
    interval = figure.interval(row)
    if interval is None or min(interval) <= 0:
        return None
    low, high = (figure.on_scale(end) for end in interval)
    return (high - low) / 2


def _described(one: Series, figure: Figure, step: Step, positions: Sequence[int]) -> Found:
    size, low, high = (_shown_change(figure, change) for change in (abs(step.change), *step.interval))
    change = f"{'rose' if step.change > 0 else 'fell'} by {size.lstrip('+')} ({low} to {high})"
    worse = (step.change > 0) == figure.smaller_is_better
    position = positions[step.at]
    stage = _stage(one, position, positions, step) if figure.key == "latency_s" else ""
    return Found(one, figure, step, position, change, worse, stage)


def _shown_change(figure: Figure, change: float) -> str:
    return f"{change:+.2f} dB" if figure.in_decibels else f"{100 * math.expm1(change):+.1f}%"


def _stage(one: Series, position: int, positions: Sequence[int], step: Step) -> str:
    """Return which stage's seconds changed most across a step, in a sentence; "" where no stage is known."""
    before, after = step.points
    ranges = positions[step.at - before : step.at], positions[step.at : step.at + after]
    changes = {}
    for stage in STAGES:
        key = f"stages.{stage}.median_s"
        parts = [[one.points[at].row[key] for at in part if one.points[at].row.get(key)] for part in ranges]
        if all(parts):
            changes[stage] = sum(parts[1]) / len(parts[1]) - sum(parts[0]) / len(parts[0])
    if not changes:
        return ""
    stage = max(changes, key=lambda name: abs(changes[name]))
    return f"Of the stages {stage} changed most, by {changes[stage]:+.3g} s"
