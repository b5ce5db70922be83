"""What the records say about one part of a claim: figures with their interval, and a verdict for each."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from analysis.results import format as figures
from analysis.results import intervals, soundness
from analysis.results.pooling import Row, architecture, comparable, decibel, name, unpaired
from analysis.results.truth import recorded_loss

CONFIRMED, PARTLY, CONTRADICTED, INCONCLUSIVE, NOT_MEASURED = (
    "confirmed",
    "partly",
    "contradicted",
    "inconclusive",
    "not measured",
)

RSS_SHARE = 0.05
"""A resident set's peak is known to this share and `RSS_NOISE_BYTES` either way; torch's own count of VRAM is exact."""

RSS_NOISE_BYTES = 20 * 2**20
"""What the peak of equal processes differs by, whatever their size: half the 40 MiB seen between them."""

_NO_EFFECT = {"speedup": 1.0, "micro_speedup": 1.0, "saving": 0.0, "micro_saving": 0.0}

QUALITY = ("psnr_hole_db", "truth_db")
"""Figures of quality. What they say is of the videos that they were measured on."""

_UNITS = {
    "speedup": (1, 2, "x"),
    "saving": (100, 0, "%"),
    "seconds": (1, 2, " s"),
    "gib": (1, 2, " GiB"),
    "psnr_hole_db": (1, 1, " dB"),
    "truth_db": (1, 2, " dB"),
}
"""By figure: factor, digits and unit in texts."""


Figure = tuple[float | None, list[float] | None, str | None]
"""A value, its interval, and for a speedup whether it is "paired" or "unpaired"."""


@dataclass(frozen=True)
class Measured:
    """Hold one figure of one part: `value` and `interval` [low, high] in the figure's unit, and where it comes from.

    `doubt` is what keeps it from being judged, in a clause, and `again` the command that measures it again.
    """

    what: str
    figure: str
    value: float | None
    interval: list[float] | None
    verdict: str | None
    text: str
    variant: str
    baseline: str | None
    data: str
    device: str
    kind: str | None
    doubt: str | None
    again: str | None


def measure(part: dict[str, Any], rows: list[Row], micro: list[Row], evaluated: Iterable[Row] = ()) -> list[Measured]:
    """Return all that is known about a part; empty where nothing is.

    Args:
        part: of a claim in claims.yaml.
        rows: of `variants_table`.
        micro: of `load_micro`.
        evaluated: of `rows_of_evaluation`. A figure against the truth is theirs where they have it: many videos say
            more than the clips of `rows`.
    """
    if part["figure"] == "truth_db" and (of_many := list(_evaluated(part, evaluated))):
        return of_many
    if part["figure"].startswith("micro"):
        return list(_micro(part, micro))
    fitting = [row for row in rows if _meets(row, part.get("where", {}))]
    chosen = [row for row in fitting if _is(row, part["variant"])]
    if part["variant"] == "any":
        chosen = _fastest(chosen)
    if part["figure"] == "outlasts":
        return list(_outlasts(part, chosen, fitting))
    if "baseline" in part:
        return list(_against(part, chosen, fitting))
    return [found for row in chosen if (found := _alone(part, row)) is not None]


def judge(part: dict[str, Any], value: float, interval: list[float] | None) -> str:
    """Return the verdict on a figure, by its interval and the part's promise, within, at_least, at_most or near."""
    if interval is None:
        return INCONCLUSIVE
    low, high = interval
    if "promise" in part:
        least, none = part["promise"][0], _NO_EFFECT[part["figure"]]
        if low >= least:
            return CONFIRMED
        if high < least:
            return PARTLY if low > none else CONTRADICTED
        return INCONCLUSIVE
    if "near" in part:
        near, share = part["near"], part["tolerance"]
        return CONFIRMED if low <= near * (1 + share) and high >= near * (1 - share) else CONTRADICTED
    least, most = part.get("within", (part.get("at_least", -math.inf), part.get("at_most", math.inf)))
    if least <= low and high <= most:
        return CONFIRMED
    return CONTRADICTED if high < least or low > most else INCONCLUSIVE


def _against(part: dict[str, Any], chosen: Iterable[Row], rows: list[Row]) -> Iterable[Measured]:
    for row in chosen:
        if row["status"] != "ok":
            continue
        baseline = _counterpart(part, row, rows)
        value, interval, kind = (_speedup if part["figure"] == "speedup" else _saving)(part, row, baseline)
        if value is None:
            continue
        yield _measured(part, row, value, interval, kind=kind, other=baseline)


def _speedup(part: dict[str, Any], row: Row, baseline: Row | None) -> Figure:
    column = _speedup_column(part["of"])
    if row.get("speedup.kind") == "paired" and _same_name(name(row.get("speedup.baseline")), part["baseline"]):
        return row.get(f"{column}.median"), row.get(f"{column}.ci95"), "paired"
    figure = unpaired(baseline, row, part["of"], "it") if baseline else {}
    return figure.get("it.median"), figure.get("it.ci95"), "unpaired"


def _saving(part: dict[str, Any], row: Row, baseline: Row | None) -> Figure:
    if baseline is None or not (mine := _peaks(part, row)) or not (theirs := _peaks(part, baseline)):
        return None, None, None
    key = f"{part['of']}.peak_bytes"
    return 1 - row[key] / baseline[key], [1 - mine[1] / theirs[0], 1 - mine[0] / theirs[1]], None


def _peaks(part: dict[str, Any], row: Row) -> list[float] | None:
    """Return the least and most bytes that a row's peak may be."""
    peak = row.get(f"{part['of']}.peak_bytes")
    if not peak:
        return None
    low, high = row.get("memory.peak_range_bytes", [peak, peak]) if part["of"] == "memory" else (peak, peak)
    if row.get("memory.kind") != "rss":
        return [low, high]
    return [low * (1 - RSS_SHARE) - RSS_NOISE_BYTES, high * (1 + RSS_SHARE) + RSS_NOISE_BYTES]


def _alone(part: dict[str, Any], row: Row) -> Measured | None:
    figure, of = part["figure"], part.get("of", "")
    if row["status"] == "out_of_memory" and figure == "gib":
        limit = row.get("run.limits.vram_gb")
        above = [limit or 0.0, math.inf] if "at_most" not in part else [math.inf, math.inf]
        text = f"out of memory{f' within {limit:g} GiB' if limit else ''}"
        return _measured(part, row, None, None, text=text, verdict=judge(part, math.inf, above))
    if row["status"] != "ok":
        return None
    if figure == "gib":
        peaks = _peaks(part, row)
        if peaks is None:
            return None
        if "near" in part:
            peaks[1] = max(peaks[1], row.get("memory.process_bytes", 0))
        return _measured(part, row, row[f"{of}.peak_bytes"] / figures.GIB, [peak / figures.GIB for peak in peaks])
    if figure == "seconds":
        seconds = row.get(f"{of}.median_s")
        return None if seconds is None else _measured(part, row, seconds, row.get(f"{of}.ci95_s"))
    if figure == "psnr_hole_db":
        value = decibel(row)
        if value == math.inf:
            verdict = judge(part, value, [value, value])
            return _measured(part, row, None, None, text="identical", verdict=verdict)
    else:
        loss = recorded_loss(row).mean_db
        value = None if loss is None or not math.isfinite(loss) else -loss
    return None if value is None else _measured(part, row, value, [value, value])


def _evaluated(part: dict[str, Any], evaluated: Iterable[Row]) -> Iterable[Measured]:
    """Measure what variants gain or lose to the truth on an evaluation's videos, over its published baseline."""
    for row in evaluated:
        loss, baseline = row["truth.loss"], row.get("speedup.baseline")
        if not _meets(row, part.get("where", {})) or not _is(row, part["variant"]) or loss.mean_db is None:
            continue
        if name(baseline) == "published":
            interval = None if loss.interval_db is None else [-end for end in reversed(loss.interval_db)]
            data = row["evaluation"] + ("" if architecture(row) == "published" else f", {figures.weights(row)}")
            yield _measured(part, row, -loss.mean_db, interval, data=data)


def _outlasts(part: dict[str, Any], chosen: Iterable[Row], rows: list[Row]) -> Iterable[Measured]:
    for row in chosen:
        baseline = _counterpart(part, row, rows, same_limit=True)
        if baseline is None or "unsupported" in (row["status"], baseline["status"]):
            continue
        if row["status"] in part["fails"] + ["out_of_memory"]:
            verdict = CONTRADICTED
        elif row["status"] != "ok":
            verdict = INCONCLUSIVE
        elif baseline["status"] == "ok":
            verdict = PARTLY
        else:
            verdict = CONFIRMED if baseline["status"] in part["fails"] else INCONCLUSIVE
        text = f"{row['variant.name']}: {row['status']}; {baseline['variant.name']}: {baseline['status']}"
        yield _measured(part, row, None, None, text=text, verdict=verdict, other=baseline)


def _micro(part: dict[str, Any], micro: list[Row]) -> Iterable[Measured]:
    """Measure single operations: `ratio` is a row's time over that of the first option of its group."""
    alike: dict[tuple, dict[str, Row]] = {}
    for row in micro:
        if row.get("group") == part["group"] and row.get("pass") == part["pass"] and row.get("status") == "ok":
            key = (row["path"], row.get("dtype"))
            alike.setdefault(key, {})[row["option"]] = row
    for (_, dtype), options in alike.items():
        mine, theirs = options.get(part["variant"]), options.get(part["baseline"])
        if mine is None or theirs is None:
            continue
        value, interval, kind = (_micro_saving if part["figure"] == "micro_saving" else _micro_speedup)(mine, theirs)
        if value is not None:
            what = "an update" if mine["pass"] == "update" else "single operation"
            data = f"{what}, {mine.get('size', 'shapes of a run')}, {dtype}"
            yield _measured(part, mine, value, interval, kind=kind, other=theirs, data=data)


def _micro_saving(row: Row, baseline: Row) -> Figure:
    mine, theirs = row.get("peak_bytes"), baseline.get("peak_bytes")
    if not mine or not theirs:
        return None, None, None
    value = 1 - mine / theirs
    if row.get("memory.kind") != "rss":
        return value, [value, value], None
    low, high = ((peak * (1 - RSS_SHARE), peak * (1 + RSS_SHARE)) for peak in (mine, theirs))
    return value, [1 - low[1] / high[0], 1 - low[0] / high[1]], None


def _micro_speedup(row: Row, baseline: Row) -> Figure:
    if "ratio.median" in row and "ratio.median" not in baseline:
        ends = row.get("ratio.ci95")
        return 1 / row["ratio.median"], [1 / end for end in reversed(ends)] if ends else None, "paired"
    if "ratio.median" in baseline and "ratio.median" not in row:
        return baseline["ratio.median"], baseline.get("ratio.ci95"), "paired"
    above, below = baseline["median_s"], row["median_s"]
    return above / below, intervals.ratio(above, baseline.get("ci95_s"), below, row.get("ci95_s")), "unpaired"


def _measured(
    part: dict[str, Any],
    row: Row,
    value: float | None,
    interval: list[float] | None,
    *,
    kind: str | None = None,
    text: str | None = None,
    verdict: str | None = None,
    other: Row | None = None,
    data: str | None = None,
) -> Measured:
    doubt, again = _doubt(part, row, other, kind)
    if verdict is None and value is not None:
        verdict = INCONCLUSIVE if doubt else judge(part, value, interval)
    variant = row.get("variant.label") or row["option"]
    return Measured(
        what=part["what"],
        figure=part["figure"],
        value=value,
        interval=interval,
        verdict=None if part.get("context") else verdict,
        text=text or ("" if value is None else _text(part["figure"], value, interval, kind)),
        variant=variant,
        baseline=part.get("baseline"),
        data=data or _clip(part, row),
        device=figures.where(row),
        kind=kind,
        doubt=doubt,
        again=again,
    )


def _clip(part: dict[str, Any], row: Row) -> str:
    """Return the clip of a row, of a figure of quality also that it is one, and the weights of other widths."""
    count = ", 1 video" if part["figure"] in QUALITY else ""
    return figures.size(row) + count + ("" if architecture(row) == "published" else f", {figures.weights(row)}")


def _doubt(part: dict[str, Any], row: Row, other: Row | None, kind: str | None) -> tuple[str | None, str | None]:
    """Return what makes a part's figure doubtful, and the command that measures it again. Quality is never doubtful."""
    of = part.get("of", "")
    checks: dict[str, Callable[[Row], str | None]] = {
        "saving": soundness.memory_doubt,
        "gib": soundness.memory_doubt,
        "seconds": lambda one: soundness.time_doubt(one, of),
        "speedup": lambda one: soundness.time_doubt(one, of),
        "micro_speedup": lambda one: soundness.time_doubt(one) if one.get("disturbed") else None,
    }
    if kind == "paired":
        checks["speedup"] = lambda one: soundness.paired_doubt(one, _speedup_column(of))
    check = checks.get(part["figure"], lambda one: None)
    for one in [row] if other is None or kind == "paired" else [other, row]:
        if doubt := check(one):
            return doubt, one.get("doubt.again")
    return None, None


def _speedup_column(of: str) -> str:
    return "speedup" if of == "latency" else f"speedup.{of}"


def _text(figure: str, value: float, interval: list[float] | None, kind: str | None) -> str:
    scale, digits, unit = _UNITS[figure.removeprefix("micro_")]
    text = f"{scale * value:.{digits}f}{unit}"
    if interval is None:
        text += " (no interval)"
    elif interval[0] != interval[1]:
        low, high = (f"{scale * end:.{digits}f}" for end in interval)
        text += f" ({low} to {high})"
    return text + (f", {kind}" if kind == "unpaired" else "")


def _counterpart(part: dict[str, Any], row: Row, rows: list[Row], same_limit: bool = False) -> Row | None:
    """Return the row of the baseline: same machine, data and weights, best the same limits."""

    def limits_differ(one: Row) -> bool:
        return any(one.get(key) != row.get(key) for key in ("run.limits.vram_gb", "run.limits.host_gb"))

    wanted = [one for one in rows if _is(one, part["baseline"]) and comparable(one, row)]
    if same_limit:
        return next((one for one in wanted if not limits_differ(one)), None)
    return min((one for one in wanted if one["status"] == "ok"), key=limits_differ, default=None)


def _fastest(rows: list[Row]) -> list[Row]:
    timed = [row for row in rows if row["status"] == "ok" and row.get("latency.median_s")]
    timed = [row for row in timed if soundness.time_doubt(row) is None] or timed
    return [min(timed, key=lambda row: row["latency.median_s"])] if timed else []


def _is(row: Row, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_is(row, one) for one in wanted)
    if isinstance(wanted, dict):
        return set(wanted["has"]) <= set(row["variant.name"].split(","))
    return wanted == "any" or _same_name(row["variant.name"], wanted)


def _same_name(one: str, other: str) -> bool:
    return set(one.split(",")) == set(other.split(","))


def _meets(row: Row, where: dict[str, Any]) -> bool:
    for key, wanted in where.items():
        value = row.get(key)
        if isinstance(wanted, dict):
            if value is None or not wanted.get("min", -math.inf) <= value <= wanted.get("max", math.inf):
                return False
        elif value != wanted:
            return False
    return True
