"""What the report shows of one variant in one setting, and which variants of many are worth showing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

MIB = 2**20

Value = TypeVar("Value")


def known(value: Value | None) -> Value:
    """Return a figure that the caller has filtered its rows for.

    Raises:
        ValueError: it is None.
    """
    if value is None:
        raise ValueError("a row without the figure that it was chosen for")
    return value


@dataclass(frozen=True)
class Row:
    """One variant on one clip, device and set of weights, its repeats taken together.

    Attributes:
        variant: its id; `name` is what to call it, `parts` the name in pieces that may stand on lines of their own.
        changes: group and option of each group that differs from the published variant, or `group` with the settings
            where only these differ; `choices` has the option of every group.
        clip, machine, weights: fingerprints; rows that differ in one of them are not compared.
        latency_ci_s, speedup_ci: 95% intervals, (low, high); None where not known.
        speedup, speedup_ci, speedup_kind: over the published variant; kind is "paired" or "unpaired".
        speedup_elsewhere: a paired speedup over another variant, and its name.
        peak_range: least and most peak bytes of the repeats.
        psnr_hole_db: None where not known, and where `identical`.
        latency_doubt, speedup_doubt, memory_doubt: what keeps the figure from being a finding, in a clause; None where
            it is sound (`analysis.results.soundness`). own_doubt: what of it lies in this row, not in its baseline.
        again: the command that measures the row again; None where nothing in it is doubtful.
        runs: how many records it is made of.
        folder: run folder of the record that its preview is taken from.
    """

    variant: str
    name: str
    changes: Mapping[str, str]
    choices: Mapping[str, str]
    status: str
    clip: str = ""
    machine: str = ""
    weights: str = ""
    weights_source: str | None = None
    setting: str = ""
    reason: str | None = None
    command: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    latency_s: float | None = None
    latency_ci_s: tuple[float, float] | None = None
    first_s: float | None = None
    compile_s: float | None = None
    speedup: float | None = None
    speedup_ci: tuple[float, float] | None = None
    speedup_kind: str | None = None
    speedup_elsewhere: tuple[float, str] | None = None
    peak_bytes: float | None = None
    peak_range: tuple[float, float] | None = None
    memory_kind: str | None = None
    identical: bool = False
    psnr_hole_db: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    quality_reason: str | None = None
    frames_psnr_db: Sequence[float | None] = ()
    stage_s: Mapping[str, float | None] = field(default_factory=dict)
    stage_fraction: Mapping[str, float | None] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()
    latency_doubt: str | None = None
    speedup_doubt: str | None = None
    memory_doubt: str | None = None
    own_doubt: str | None = None
    again: str | None = None
    runs: int = 1
    folder: Path | None = None

    @property
    def published(self) -> bool:
        """Whether it is the published variant."""
        return not self.changes and self.name.startswith("published")

    @property
    def label(self) -> str:
        """Return the name, with the setting where there are several."""
        return f"{self.name} ({self.setting})" if self.setting else self.name

    @property
    def parts(self) -> list[str]:
        """The name in pieces, each with the comma that follows it."""
        return re.findall(r"(?:\([^)]*\)|[^,(])+,?", self.name)

    @property
    def key(self) -> tuple[str, str, str]:
        """The setting: rows of one key may be compared."""
        return self.clip, self.machine, self.weights

    @property
    def ok(self) -> bool:
        """Whether it ran, and was timed."""
        return self.status == "ok" and self.latency_s is not None

    @property
    def peak_mib(self) -> float:
        """The peak memory in MiB, of a row that has one."""
        return known(self.peak_bytes) / MIB

    @property
    def sound_latency_s(self) -> float | None:
        """The latency where it may be a finding."""
        return self.latency_s if self.latency_doubt is None else None

    @property
    def sound_speedup(self) -> float | None:
        """The speedup over the published variant where it may be a finding."""
        return self.speedup if self.speedup_doubt is None else None

    @property
    def psnr_text(self) -> str:
        """PSNR in the hole as text, without unit."""
        return "identical" if self.identical else "" if self.psnr_hole_db is None else f"{self.psnr_hole_db:.1f}"

    @property
    def speedup_sure(self) -> bool:
        """Whether the speedup's interval is known and leaves out 1."""
        return self.speedup_ci is not None and not self.speedup_ci[0] <= 1 <= self.speedup_ci[1]

    def added_to(self, other: "Row") -> list[str]:
        """Return what this one changes beyond the other, as `group=option`."""
        return [text for group, text in self.changes.items() if other.changes.get(group) != text]


def within_bounds(row: Row, least_psnr_hole_db: float) -> bool:
    """Return whether the result is identical to the reference, or near enough in the hole."""
    return row.identical or (row.psnr_hole_db is not None and row.psnr_hole_db >= least_psnr_hole_db)


def fastest(rows: Sequence[Row]) -> Row | None:
    """Return the row of highest sound speedup over published; of least sound latency where not all have such a speedup.

    None where no figure is sound.
    """
    sound = [row for row in rows if row.sound_latency_s is not None or row.sound_speedup is not None]
    if any(row.sound_speedup for row in sound) and all(row.sound_speedup or row.published for row in sound):
        compared = [*sound, *(row for row in rows if row.published)]  # published is 1 by definition
        return max(compared, key=lambda row: (row.sound_speedup or 1.0, -(row.latency_s or 0.0)))
    timed = [(row.sound_latency_s, position) for position, row in enumerate(rows) if row.sound_latency_s is not None]
    return rows[min(timed)[1]] if timed else None


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other one beats in both latency and memory, by growing memory."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (known(row.peak_bytes), known(row.latency_s))):
        if not front or known(row.latency_s) < known(front[-1].latency_s):
            front.append(row)
    return front


def notable(rows: Sequence[Row], count: int) -> list[Row]:
    """Return the `count` rows most worth showing, in their own order.

    These are published, fastest, smallest, furthest from the reference, then the front of latency and memory, then
    the faster.
    """
    if len(rows) <= count:
        return list(rows)
    timed = sorted((row for row in rows if row.latency_s is not None), key=lambda row: known(row.latency_s))
    sized = sorted((row for row in rows if row.peak_bytes is not None), key=lambda row: known(row.peak_bytes))
    scored = sorted((row for row in rows if row.psnr_hole_db is not None), key=lambda row: known(row.psnr_hole_db))
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
    last: Row | None = max(usable, key=lambda row: (best[id(row)][0], -known(row.latency_s)))
    steps: list[Row] = []
    while last is not None:
        steps.insert(0, last)
        last = best[id(last)][1]
    return steps
