"""What the report shows of one variant in one setting, and which variants of many are worth showing."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.results import soundness
from analysis.results.pooling import STAGES, architecture, limits, options, truth_decibel

MIB = 2**20


def _column(key: str, form: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return a property: a column of the row's `flat` through `form`, None where the row lacks it."""
    return property(lambda row: None if row.flat.get(key) is None else form(row.flat[key]))


def _pair(value: Any) -> tuple[float, float] | None:
    """Return an interval, None where an end is not known."""
    return (value[0], value[1]) if isinstance(value, (list, tuple)) and len(value) == 2 and None not in value else None


@dataclass(frozen=True)
class Row:
    """Hold one variant on one clip, device and set of weights, its repeats taken together.

    Figures are None where they are not known; names end in their unit.

    Attributes:
        flat: the row of `variants_table`; its speedup is over the published variant, or in `speedup_elsewhere`.
        changes: group and option of each group that differs from the published variant, or `group` with the settings
            where only these differ; `choices` has the option of every group.
        setting: in what the row's clip, device, weights, schedule and limits differ from those of the others.
        latency_ci_s, speedup_ci: 95% intervals, (low, high).
        speedup_kind: "paired" or "unpaired".
        speedup_elsewhere: a paired speedup over another variant, and its name.
        peak_range: least and most peak bytes of the repeats.
        psnr_hole_db: None where `identical` too.
        latency_doubt, speedup_doubt, memory_doubt: what keeps the figure from being a finding, in a clause; None where
            it is sound (`analysis.results.soundness`). own_doubt: what of it lies in this row, not in its baseline.
        again: the command that measures the row again; None where nothing in it is doubtful.
        runs: how many records it is made of.
    """

    flat: dict[str, Any]
    changes: Mapping[str, str]
    choices: Mapping[str, str]
    setting: str = ""
    speedup_elsewhere: tuple[float, str] | None = None

    variant = _column("variant.id")
    name = _column("variant.label")
    status = _column("status")
    machine = _column("place")
    weights = _column("weights.fingerprint")
    weights_source = _column("weights.source")
    reason = _column("reason")
    frames = _column("data.frames", int)  # a table makes floats of counts where some are missing
    height = _column("data.height", int)
    width = _column("data.width", int)
    latency_s = _column("latency.median_s")
    latency_ci_s = _column("latency.ci95_s", _pair)
    compile_s = _column("latency.compile_s")
    export_s = _column("latency.export_s")
    build_s = _column("latency.build_s")
    speedup = _column("speedup.median")
    speedup_ci = _column("speedup.ci95", _pair)
    speedup_kind = _column("speedup.kind")
    peak_bytes = _column("memory.peak_bytes")
    peak_range = _column("memory.peak_range_bytes", _pair)
    memory_kind = _column("memory.kind")
    identical = _column("quality.identical")
    psnr_hole_db = _column("quality.psnr_hole_db")
    ssim = _column("quality.ssim")
    lpips = _column("quality.lpips")
    quality_reason = _column("quality_reason")
    latency_doubt = _column("doubt.latency")
    speedup_doubt = _column("doubt.speedup")
    memory_doubt = _column("doubt.memory")
    own_doubt = _column("doubt.own")
    again = _column("doubt.again")
    runs = _column("records")

    @property
    def architecture(self) -> str:
        """Return which widths the networks had, "published" or "small"."""
        return architecture(self.flat)

    @property
    def command(self) -> str:
        """Return the command that makes this run."""
        return soundness.command(self.flat)

    @property
    def disturbed(self) -> tuple[str, ...]:
        """Return what disturbed the timed runs, each sentence once."""
        return tuple(dict.fromkeys(self.flat.get("disturbed") or ()))

    @property
    def frames_psnr_db(self) -> Sequence[float | None]:
        """Return the hole's PSNR of each frame; empty where not known."""
        found = self.flat.get("quality.frames.psnr_hole_db")
        return found if isinstance(found, list) else ()

    def stages(self, figure: str) -> dict[str, Any]:
        """Return a figure of each stage that has it: "median_s", or "fraction_of_peak" of the device."""
        found = {stage: self.flat.get(f"stages.{stage}.{figure}") for stage in STAGES}
        return {stage: value for stage, value in found.items() if value is not None}

    @property
    def folder(self) -> Path | None:
        """Return the run folder of the record that the preview is taken from; None where it is not there."""
        folder = Path(self.flat["path"]).parent if self.flat.get("path") else None
        return folder if folder is not None and folder.is_dir() else None

    @property
    def published(self) -> bool:
        """Return whether this is the published variant."""
        return not self.changes and self.name.startswith("published")

    @property
    def label(self) -> str:
        """Return the name, with the setting where there are several."""
        return f"{self.name} ({self.setting})" if self.setting else self.name

    @property
    def parts(self) -> list[str]:
        """Return the name in pieces, each with the comma that follows it."""
        return re.findall(r"(?:\([^)]*\)|[^,(])+,?", self.name)

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the setting as clip, schedule and limits, environment, weights: rows of one key may be compared."""
        clip = [self.flat.get("data.fingerprint"), options(self.flat, "schedule"), limits(self.flat)]
        return json.dumps(clip, sort_keys=True), self.machine, self.weights

    @property
    def ok(self) -> bool:
        """Return whether it ran, and was timed."""
        return self.status == "ok" and self.latency_s is not None

    @property
    def peak_mib(self) -> float:
        """Return the peak memory in MiB, of a row that has one."""
        return self.peak_bytes / MIB

    @property
    def sound_latency_s(self) -> float | None:
        """Return the latency where it may be a finding."""
        return self.latency_s if self.latency_doubt is None else None

    @property
    def sound_speedup(self) -> float | None:
        """Return the speedup over the published variant where it may be a finding."""
        return self.speedup if self.speedup_doubt is None else None

    @property
    def psnr_text(self) -> str:
        """Return PSNR in the hole as text, without unit."""
        return "identical" if self.identical else "" if self.psnr_hole_db is None else f"{self.psnr_hole_db:.1f}"

    @property
    def truth_psnr_hole_db(self) -> float | None:
        """Return PSNR in the hole against the truth; infinite where they are equal, None where the truth is unknown."""
        return truth_decibel(self.flat)

    @property
    def speedup_sure(self) -> bool:
        """Return whether the speedup's interval is known and leaves out 1."""
        return self.speedup_ci is not None and not self.speedup_ci[0] <= 1 <= self.speedup_ci[1]

    def added_to(self, other: "Row") -> list[str]:
        """Return what this one changes beyond the other, as `group=option`."""
        return [text for group, text in self.changes.items() if other.changes.get(group) != text]


def within_bounds(row: Row, least_psnr_hole_db: float) -> bool:
    """Return whether the result is identical to the reference, or near enough in the hole."""
    return row.identical or (row.psnr_hole_db is not None and row.psnr_hole_db >= least_psnr_hole_db)


def fastest(rows: Sequence[Row]) -> Row | None:
    """Return the fastest row by `soundness.speed_order`; None where no figure is sound."""
    if all(row.sound_latency_s is None and row.sound_speedup is None for row in rows):
        return None
    order = soundness.speed_order([row.flat for row in rows])
    return min(rows, key=lambda row: order(row.flat))


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other one beats in both latency and memory, by growing memory."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.peak_bytes, row.latency_s)):
        if not front or row.latency_s < front[-1].latency_s:
            front.append(row)
    return front


def notable(rows: Sequence[Row], count: int) -> list[Row]:
    """Return the `count` rows most worth showing, in their own order.

    These are published, fastest, smallest, furthest from the reference, then the front of latency and memory, then
    the faster.
    """
    if len(rows) <= count:
        return list(rows)
    timed = sorted((row for row in rows if row.latency_s is not None), key=lambda row: row.latency_s)
    sized = sorted((row for row in rows if row.peak_bytes is not None), key=lambda row: row.peak_bytes)
    scored = sorted((row for row in rows if row.psnr_hole_db is not None), key=lambda row: row.psnr_hole_db)
    front = pareto_front([row for row in timed if row.peak_bytes is not None])
    wanted = [*(row for row in rows if row.published), *timed[:1], *sized[:1], *scored[:1], *front, *timed, *rows]
    chosen = list({id(row): row for row in wanted}.values())[:count]
    kept = {id(row) for row in chosen}
    return [row for row in rows if id(row) in kept]


def chain(rows: Sequence[Row]) -> list[Row]:
    """Return the longest chain of variants in which each keeps what the one before changed and changes more.

    It starts with the published variant where that is there. Of chains of equal length, the one that adds one technique
    at a time goes first, then the one that ends fastest.
    """
    published = [row for row in rows if row.published]
    usable = sorted(rows, key=lambda row: len(row.changes))
    changes = {id(row): frozenset(row.changes.items()) for row in usable}
    best: dict[int, tuple[tuple[int, int], Row | None]] = {}
    for position, row in enumerate(usable):
        mine = changes[id(row)]
        found: tuple[tuple[int, int], Row | None] = ((0, 0), None)
        if published and not row.published:
            found = ((-len(usable), 0), None)
        for before in usable[:position]:
            theirs = changes[id(before)]
            if theirs < mine:
                (count, leaps), _ = best[id(before)]
                leap = len(mine - theirs) - 1
                if (count + 1, leaps - leap) > found[0]:
                    found = ((count + 1, leaps - leap), before)
        best[id(row)] = found
    if not usable:
        return []
    last: Row | None = max(usable, key=lambda row: (best[id(row)][0], -row.latency_s))
    steps: list[Row] = []
    while last is not None:
        steps.insert(0, last)
        last = best[id(last)][1]
    return steps
