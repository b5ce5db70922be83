"""`python -m analysis recommend`: the best measured variant within bounds, and its command."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import InputError
from analysis.records.evaluation import Evaluation
from analysis.records.load import load_with_evaluations
from analysis.results import evaluation_table, truth
from analysis.results import format as figures
from analysis.results.intervals import disjoint
from analysis.results.pooling import Row, architecture, decibel, name, rows_of, variants_table
from analysis.results.soundness import command, speed_order

RUNNERS_UP = 3

FITS, NOTHING_FITS = 0, 1

_NOT_COMPARED = "it was not compared with the reference"

_LOSS = "max-psnr-loss-db"

_HOW_LOSS = (
    "A loss to the truth is of PSNR in the hole. What must keep the bound is the upper end of its 95% interval. "
    "Without an interval it is the figure itself: other videos may give another one."
)


@dataclass(frozen=True)
class Bound:
    """Hold a limit: `figure` gives what a row has of it, `limit` what is allowed; PSNR is wanted high, the rest low."""

    option: str
    limit: float
    figure: Callable[[Row], float | None]
    text: Callable[[float], str]
    unknown: Callable[[Row], str]
    high_is_good: bool = False

    def excess(self, row: Row) -> float:
        """Return how far a row is beyond the limit, as a share of it; 0 within, infinite where that is not known."""
        value = self.figure(row)
        if value is None:
            return math.inf
        beyond = self.limit - value if self.high_is_good else value - self.limit
        return max(0.0, beyond / self.limit) if self.limit else math.inf if beyond > 0 else 0.0

    def breach(self, row: Row) -> str:
        """Return what breaks, in words."""
        value = self.figure(row)
        if value is None:
            return f"{self.unknown(row)} (--{self.option} {self.limit:g})"
        side = "under" if self.high_is_good else "over"
        return f"{self.text(value)}, {side} the {self.text(self.limit)} of --{self.option}"


def bounds_of(arguments: argparse.Namespace) -> list[Bound]:
    """Return the bounds that were asked for. Gigabytes are GiB, 2**30 bytes, as in limits.vram_gb."""
    vram, host, time = "{:.2f} GiB of VRAM".format, "{:.2f} GiB of host memory".format, "{:.2f} s".format
    psnr = "{:.1f} dB in the hole".format
    loss = "{:.3f} dB lost to the truth".format
    known = [
        Bound("max-vram-gb", arguments.max_vram_gb, _vram_gib, vram, _said("it was not run on a GPU")),
        Bound("max-memory-gb", arguments.max_memory_gb, _host_gib, host, _said("its host memory is not known")),
        Bound("min-psnr-hole-db", arguments.min_psnr_hole_db, decibel, psnr, _said(_NOT_COMPARED), True),
        Bound(_LOSS, arguments.max_psnr_loss_db, _loss_db, loss, lambda row: row["truth.loss"].unknown),
        Bound("max-latency-s", arguments.max_latency_s, _sound_s, time, _said("it has no sound time")),
    ]
    return [bound for bound in known if bound.limit is not None]


def recommend(rows: list[Row], bounds: list[Bound], purpose: str) -> tuple[list[Row], list[Row]]:
    """Return the variants within the bounds, the best first, and those beyond them, the nearest first.

    A variant whose figure for the purpose is doubtful is in neither.

    Args:
        rows: of `variants_table`, that went well, on the same data, weights and device, with their `truth.loss` where
            that is bounded; or of `truth.rows_of_evaluation`.
        purpose: "speed" or "memory".
    """
    wanted: tuple[str, ...]
    if purpose == "speed":
        doubt, wanted = "doubt.latency", ("latency.median_s", "speedup.median")
    else:
        doubt, wanted = "doubt.memory", ("memory.peak_bytes",)
    rows = [row for row in rows if not row.get(doubt)]
    by_speed = speed_order(rows)

    def merit(row: Row) -> tuple[float, float]:
        if purpose == "speed":
            return by_speed(row)
        return row.get("memory.peak_bytes", math.inf), row.get("latency.median_s", math.inf)

    def excess(row: Row) -> float:
        return math.fsum(bound.excess(row) for bound in bounds)

    fitting = sorted((row for row in rows if excess(row) == 0 and set(wanted) & row.keys()), key=merit)
    rest = sorted((row for row in rows if excess(row) > 0), key=lambda row: (excess(row), merit(row)))
    return fitting, rest


def answer(
    rows: list[Row], bounds: list[Bound], purpose: str, evaluations: Sequence[Evaluation] = ()
) -> tuple[str, bool]:
    """Return what to use, in words, and whether anything fits.

    Args:
        rows, bounds, purpose: as for `recommend`.
        evaluations: those that a loss to the truth may be taken from; what makes one unusable is said.
    """
    fitting, rest = recommend(rows, bounds, purpose)
    lines = [_head(rows[0])]
    psnr = next((bound for bound in bounds if bound.high_is_good), None)
    if psnr and rows[0].get("weights.source") == "seeded":
        lines.append(
            f"The weights are the seeded ones, so {psnr.limit:g} dB is a bound on numerical agreement with the fp32 "
            "reference here, not on visual quality."
        )
    if architecture(rows[0]) != "published":
        lines.append(evaluation_table.SMALL)
    if any(bound.option == _LOSS for bound in bounds):
        lines += [_HOW_LOSS, *truth.unused(rows, evaluations)]
    if fitting:
        best, *others = fitting
        good = "fastest" if purpose == "speed" else "smallest"
        sound = "" if len(fitting) + len(rest) == len(rows) else " and sound"
        within = " within the bounds" if bounds else ""
        lines += [
            "",
            f"The {good} of {len(rows)} measured{sound}{within}:",
            *_described(best, bounds),
            f"    {command(best)}",
        ]
        if others:
            lines += ["", "Runners-up:"]
            for row in others[:RUNNERS_UP]:
                lines += _described(row, bounds, best if purpose == "speed" else None)
        lines += _reserved(best, bounds)
    elif rest:
        nearest = rest[0]
        lines += [
            "",
            "Nothing that was measured fits. The nearest:",
            *_described(nearest, bounds),
            f"    {command(nearest)}",
        ]
        lines += ["what breaks:", *(f"    {bound.breach(nearest)}" for bound in bounds if bound.excess(nearest))]
    else:
        lines += ["", f"Nothing can be recommended: none of the {len(rows)} measured has a sound figure."]
    doubts = dict.fromkeys(row["doubt.speedup"] for row in rows if "evaluation" in row and row.get("doubt.speedup"))
    lines += ["", *(f"No recommendation rests on a doubtful speed: {doubt}." for doubt in doubts)] if doubts else []
    if again := figures.what_to_measure_again(rows):
        lines += ["", "Doubtful, so that no recommendation rests on its time:"]
        lines += [f"  {line}" for text in again for line in text.splitlines()]
    return "\n".join(lines), bool(fitting)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="sweep folders, record files or parquet")
    parser.add_argument("--max-vram-gb", type=_positive, metavar="GB", help="peak that torch allocates on the GPU, GiB")
    parser.add_argument("--max-memory-gb", type=_positive, metavar="GB", help="peak of host memory, GiB")
    parser.add_argument("--min-psnr-hole-db", type=_positive, metavar="DB", help="against the fp32 reference")
    parser.add_argument(
        f"--{_LOSS}",
        type=_positive,
        metavar="DB",
        help="most PSNR in the hole that is lost to the truth: by an evaluation of the variant the upper end of the "
        "95%% interval, so that the bound is kept with confidence (the mean where there is no interval); without an "
        "evaluation the loss on the one clip that was measured",
    )
    parser.add_argument("--max-latency-s", type=_positive, metavar="S", help="of a run on the clip that was measured")
    parser.add_argument("--for", dest="purpose", choices=("speed", "memory"), default="speed", help="%(default)s")


def main(arguments: argparse.Namespace) -> int:
    """Print an answer for each clip, device and weights; 0, or 1 where nothing fits, or is sound, in one of them.

    Without a run that was timed, each evaluation is answered from by itself.
    """
    frame, evaluations = load_with_evaluations(*arguments.paths)
    settings: dict[tuple, list[Row]] = {}
    for row in rows_of(variants_table(frame)):
        if row["status"] == "ok" and "latency.median_s" in row:
            key = (row["place"], row.get("data.fingerprint"), row.get("weights.fingerprint"))
            settings.setdefault(key, []).append(row | {"truth.loss": truth.loss_of(row, evaluations)})
    groups, timed = list(settings.values()), bool(settings)
    if not timed:
        found = [[row for row in truth.rows_of_evaluation(one) if row["status"] == "ok"] for one in evaluations]
        groups = [rows for rows in found if rows]
    if not groups:
        raise InputError("no variant was measured without failing, so there is nothing to recommend; see table DIR.")
    bounds = bounds_of(arguments)
    if arguments.max_vram_gb is not None and all(_vram_gib(row) is None for rows in groups for row in rows):
        raise InputError(
            "these runs were made without a GPU, so --max-vram-gb can't be answered; give --max-memory-gb."
        )
    answers = [answer(rows, bounds, arguments.purpose, evaluations if timed else ()) for rows in groups]
    print("\n\n".join(text for text, _ in answers))
    return FITS if all(fits for _, fits in answers) else NOTHING_FITS


def _head(row: Row) -> str:
    return f"{row.get('evaluation') or figures.size(row)}; {figures.where(row)}; {figures.weights(row)}"


def _described(row: Row, bounds: list[Bound], best: Row | None = None) -> list[str]:
    parts = [figures.memory(row.get("memory.peak_bytes"))]
    if "evaluation" in row:
        parts += [f"{row['truth.psnr_hole_db']:.2f} dB in the hole to the truth"] if "truth.psnr_hole_db" in row else []
    else:
        parts.insert(0, figures.seconds(row.get("latency.median_s"), row.get("latency.ci95_s")))
        parts.append(f"{figures.psnr(row) or 'not compared'} in the hole")
        parts += [f"{figures.truth_psnr(row)} to the truth"] if figures.truth_psnr(row) else []
    if any(bound.option == _LOSS for bound in bounds) and row["truth.loss"].text:
        parts.append(row["truth.loss"].text)
    if row.get("speedup.baseline") and row.get("speedup.median") and not row.get("doubt.speedup"):
        kind = ", unpaired" if row["speedup.kind"] == "unpaired" else ""
        over = name(row["speedup.baseline"]) if "evaluation" in row else "published"
        speed = figures.times(row["speedup.median"], row.get("speedup.ci95"))
        parts.insert(0 if "evaluation" in row else 1, f"{speed} {over}'s speed{kind}")
    elif row.get("doubt.speedup") and not row.get("doubt.own"):
        parts.append(f"no speedup is stated: {row['doubt.speedup']}")
    if row.get("disturbed"):
        parts.append("disturbed while it was timed")
    intervals = (row.get("latency.ci95_s"), best.get("latency.ci95_s")) if best else (None, None)
    if None not in intervals and not disjoint(*intervals):
        parts.append("not shown to be slower: the intervals overlap")
    return [f"  {row['variant.label']}", f"    {'; '.join(part for part in parts if part)}"]


def _reserved(row: Row, bounds: list[Bound]) -> list[str]:
    """Return a word where torch's allocator held more than the bound, though less was allocated."""
    limit = next((bound.limit for bound in bounds if bound.option == "max-vram-gb"), None)
    held = max(row.get("memory.reserved_bytes", 0), row.get("memory.process_bytes", 0)) / figures.GIB
    if limit is None or held <= limit:
        return []
    return [
        "",
        f"On this card the process held {held:.2f} GiB, memory kept for reuse included; "
        f"limits.vram_gb={limit:g} shows that it runs within {limit:g}.",
    ]


def _vram_gib(row: Row) -> float | None:
    peak = row.get("memory.peak_bytes") if row.get("memory.kind") == "vram" else None
    return None if peak is None else peak / figures.GIB


def _loss_db(row: Row) -> float | None:
    return row["truth.loss"].bound_db


def _said(reason: str) -> Callable[[Row], str]:
    return lambda row: reason


def _sound_s(row: Row) -> float | None:
    return None if row.get("doubt.latency") else row.get("latency.median_s")


def _host_gib(row: Row) -> float | None:
    peak = row.get("memory.peak_bytes" if row.get("memory.kind") == "rss" else "memory.host_peak_bytes")
    return None if peak is None else peak / figures.GIB


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return value
