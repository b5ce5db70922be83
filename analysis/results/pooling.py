"""One row a variant: the records of its processes pooled, and its speedup over the published variant."""

import math
import statistics
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from analysis.results import intervals, soundness

if TYPE_CHECKING:
    import pandas as pd

STAGES = ("flow", "completion", "propagation", "generation")

STATUSES = ("ok", "unsupported", "timed_out", "out_of_memory", "non_finite", "failed")
"""From best to worst."""

Row = dict[str, Any]

_SAME = (
    "variant.id",
    "data.fingerprint",
    "weights.fingerprint",
    "weights.architecture",
    "run.limits.vram_gb",
    "run.limits.host_gb",
)
"""What records that are pooled have in common, as well as the environment."""

_TAKEN = ("variant.", "data.", "weights.", "environment.", "run.command", "run.limits.", "memory.kind")
"""Columns that are the same in all pooled records; the first one's are taken."""


def variants_table(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Pool a table of `load`: a row for each variant on the same data, weights, device and limits.

    Columns, where the records have them:
        variant.*, data.*, weights.*, environment.*, run.command, run.limits.*: as in the records.
        variant.name: what differs from published; variant.label: the same, with what differs from its namesakes.
        place: where times may be compared: environment.fingerprint, or device and torch of an older record.
        schema: of the records. processes: how many went well. records: how many there are.
        status, reason: of the worst of its processes.
        latency.median_s: median of the processes' medians; latency.ci95_s: [low, high], from the spread between
            processes where there are two or more, else from inside the one; latency.frames_per_s.
        latency.samples_s: of all processes.
        speedup.median, speedup.ci95: over 1 is faster than speedup.baseline (a variant id);
            speedup.kind "paired": measured in turn with it, in one process; "unpaired": against the published row.
        memory.peak_bytes, memory.reserved_bytes, memory.process_bytes, memory.host_peak_bytes: the most of the
            processes; memory.peak_range_bytes: [least, most] of the sound peaks, where there are any; memory.kind;
            memory.limit_bytes.
        stages.STAGE.median_s, .ci95_s, .peak_bytes, .fraction_of_peak; speedup.stages.STAGE.median, .ci95.
        energy.joules_per_run: median.
        quality.*: of the process whose output is furthest from the reference; path: its file; paths: all files.
        disturbed: list of sentences. Times are of the processes that nothing disturbed, where there are any: then it
            is empty.
        doubt.latency, doubt.speedup, doubt.memory: what keeps the figure from being a finding, in a clause
            (`analysis.results.soundness`). doubt.own: what of it lies in this row, not in its baseline.
        doubt.again: the command that measures this row again.
    """
    import pandas as pd

    groups: dict[tuple, list[Row]] = {}
    for record in rows_of(frame):
        if record.get("run.task") in (None, "inpaint"):
            same = (architecture(record) if key == "weights.architecture" else record.get(key) for key in _SAME)
            groups.setdefault((machine_key(record), *same), []).append(record)
    rows = [_pool(records) for records in groups.values()]
    baselines = _compare_unpaired(rows)
    _label(rows)
    for row in rows:
        row |= _doubts(row, baselines.get(id(row)))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pd.DataFrame([[row.get(column) for column in columns] for row in rows], columns=columns)


def rows_of(frame: "pd.DataFrame") -> list[Row]:
    """Return a table's rows as dictionaries, without the cells that are None or NaN."""
    names = list(frame.columns)
    columns = [frame[name].tolist() for name in names]
    return [
        {name: value for name, value in zip(names, values, strict=True) if value is not None and value == value}
        for values in zip(*columns, strict=True)
    ]


def machine_key(record: Row) -> str:
    """Return where times may be compared: the environment's fingerprint, or device and torch of an older record."""
    older = f"{record.get('environment.device')}, torch {record.get('environment.torch')}"
    return record.get("environment.fingerprint") or older


def name(variant_id: str | None) -> str:
    """Return what differs from published, of a variant's id: "attention=sdpa,precision=amp", or "published"."""
    return (variant_id or "unknown").split("#")[0]


def architecture(row: Row) -> str:
    """Return which widths the networks had: "published", which all older records are of, or "small"."""
    return row.get("weights.architecture") or "published"


def options(row: Row, group: str = "") -> Row:
    """Return the resolved settings of a variant, or of one of its groups."""
    start = f"variant.options.{group}"
    return {key.removeprefix("variant.options."): value for key, value in row.items() if key.startswith(start)}


def decibel(row: Row) -> float | None:
    """Return the hole's PSNR of a row in dB, infinite where it is identical to the reference; None without quality."""
    if row.get("quality.identical") is None:
        return None
    return row.get("quality.psnr_hole_db", math.inf)


def truth_decibel(row: Row, of: str = "") -> float | None:
    """Return the hole's PSNR against the truth in dB, infinite where the hole is the truth's; None where it is unknown.

    Args:
        of: "" for the row's result, "reference_" for the fp32 reference of it.
    """
    if row.get(f"quality.truth.{of}ssim") is None and row.get(f"quality.truth.{of}psnr_hole_db") is None:
        return None
    return row.get(f"quality.truth.{of}psnr_hole_db", math.inf)


def _pool(records: list[Row]) -> Row:
    first = records[0]
    good = [record for record in records if record["status"] == "ok"]
    timed = [record for record in good if not record.get("disturbed")] or good
    worst = max(records, key=lambda record: STATUSES.index(record["status"]))
    compared = [record for record in good if decibel(record) is not None]
    furthest = min(compared, key=lambda r: (decibel(r), r.get("quality.ssim", 1.0)), default=(good or records)[0])
    pooled: Row = {
        "schema": first["schema"],
        "status": worst["status"],
        "reason": worst.get("reason"),
        "variant.name": name(first.get("variant.id")),
        "place": machine_key(first),
        "processes": len(good),
        "records": len(records),
        **{key: value for record in records for key, value in record.items() if key.startswith(_TAKEN)},
        **{key: value for key, value in furthest.items() if key.startswith("quality")},
        "disturbed": [sentence for record in timed for sentence in record.get("disturbed", [])],
        "doubt.again": soundness.again(timed[0]) if timed else None,
        "path": furthest["path"],
        "paths": [record["path"] for record in records],
    }
    pooled |= {key: first[key] for key in first if key.startswith(_TAKEN)}

    def over_processes(key: str, how: Callable[[list[float]], float], of: list[Row] = good) -> float | None:
        values = [record[key] for record in of if key in record]
        return how(values) if values else None

    pooled |= _pool_times(timed, "latency.median_s", "latency.ci95_s")
    pooled["latency.samples_s"] = [second for record in timed for second in record.get("latency.samples_s", [])]
    pooled["latency.frames_per_s"] = over_processes("latency.frames_per_s", statistics.median, timed)
    for figure in ("compile_s", "export_s", "build_s"):
        pooled[f"latency.{figure}"] = over_processes(f"latency.{figure}", max)
    pooled["energy.joules_per_run"] = over_processes("energy.joules_per_run", statistics.median)
    for key in ("peak_bytes", "reserved_bytes", "process_bytes", "host_peak_bytes", "limit_bytes"):
        pooled[f"memory.{key}"] = over_processes(f"memory.{key}", max)
    resident = [record for record in good if not soundness.memory_doubt(record)] or good
    peaks = [record["memory.peak_bytes"] for record in resident if "memory.peak_bytes" in record]
    pooled["memory.peak_range_bytes"] = [min(peaks), max(peaks)] if peaks else None
    for stage in STAGES:
        start = f"stages.{stage}"
        pooled |= _pool_times(timed, f"{start}.median_s", f"{start}.ci95_s")
        pooled[f"{start}.peak_bytes"] = over_processes(f"{start}.peak_bytes", max)
        pooled[f"{start}.fraction_of_peak"] = over_processes(f"{start}.fraction_of_peak", statistics.median, timed)
    return pooled | _pool_paired(timed)


def _pool_times(records: list[Row], key: str, interval: str) -> Row:
    """Return median and interval of a positive figure; its own interval where only one record has it."""
    having = [record for record in records if key in record]
    if not having:
        return {key: None, interval: None}
    values = [record[key] for record in having]
    return {
        key: statistics.median(values),
        interval: intervals.log_t_interval(values) if len(values) > 1 else having[0].get(interval),
    }


def _pool_paired(records: list[Row]) -> Row:
    having = [record for record in records if "speedup.median" in record]
    if not having:
        return {}
    baselines = Counter(record.get("speedup.baseline") for record in having)
    baseline = max(baselines, key=lambda one: (name(one) == "published", baselines[one]))
    having = [record for record in having if record.get("speedup.baseline") == baseline]
    pooled = {"speedup.kind": "paired", "speedup.baseline": baseline}
    for start in ("speedup", *(f"speedup.stages.{stage}" for stage in STAGES)):
        pooled |= _pool_times(having, f"{start}.median", f"{start}.ci95")
    return pooled


def _doubts(row: Row, baseline: Row | None) -> Row:
    """Return the columns of `soundness` for a row and the row that its unpaired speedup is over."""
    if not row.get("latency.median_s"):
        return {"doubt.again": None}
    latency, speedup = soundness.time_doubt(row), None
    if row.get("speedup.kind") == "paired":
        speedup = soundness.paired_doubt(row)
    elif baseline is not None:
        speedup = soundness.ratio_doubt(row, baseline)
    own = latency or (speedup if row.get("speedup.kind") == "paired" else None)
    return {
        "doubt.latency": latency,
        "doubt.speedup": speedup,
        "doubt.memory": soundness.memory_doubt(row),
        "doubt.own": own,
        "doubt.again": row["doubt.again"] if own else None,
    }


def _compare_unpaired(rows: list[Row]) -> dict[int, Row]:
    """Fill in the speedup over the published row with the same environment, data, weights and schedule.

    Returns:
        The id() of each row that got one -> the published row.
    """
    baselines: dict[int, Row] = {}
    published = [row for row in rows if row["variant.name"] == "published" and row["latency.median_s"]]
    for row in rows:
        if row.get("speedup.median") is not None or not row["latency.median_s"]:
            continue
        baseline = max(
            (one for one in published if one is not row and comparable(one, row)),
            key=lambda one: one.get("run.limits.vram_gb") == row.get("run.limits.vram_gb"),
            default=None,
        )
        if baseline is None or row["variant.name"] == "published":
            continue
        baselines[id(row)] = baseline
        row |= {"speedup.kind": "unpaired", "speedup.baseline": baseline["variant.id"]}
        row |= unpaired(baseline, row, "latency", "speedup")
        for stage in STAGES:
            row |= unpaired(baseline, row, f"stages.{stage}", f"speedup.stages.{stage}")
    return baselines


def comparable(one: Row, other: Row) -> bool:
    """Return whether times of two rows may be compared: same environment, data, weights, widths and schedule."""
    same = all(one.get(key) == other.get(key) for key in ("place", "data.fingerprint", "weights.fingerprint"))
    widths = architecture(one) == architecture(other)
    return same and widths and options(one, "schedule") == options(other, "schedule")


def unpaired(baseline: Row, row: Row, times: str, speedup: str) -> Row:
    """Return the speedup of a row's times over a baseline's, `times` and `speedup` being the starts of the columns."""
    above, below = baseline.get(f"{times}.median_s"), row.get(f"{times}.median_s")
    if not above or not below:
        return {}
    interval = intervals.ratio(above, baseline.get(f"{times}.ci95_s"), below, row.get(f"{times}.ci95_s"))
    return {f"{speedup}.median": above / below, f"{speedup}.ci95": interval}


def _label(rows: list[Row]) -> None:
    """Give each row a name that no other on the same data has, as far as settings and limits differ."""
    namesakes: dict[tuple, list[Row]] = {}
    for row in rows:
        key = (row["variant.name"], *(row.get(key) for key in ("place", "data.fingerprint", "weights.fingerprint")))
        namesakes.setdefault(key, []).append(row)
    for alike in namesakes.values():
        settings = [options(row) | limits(row) for row in alike]
        keys = dict.fromkeys(key for setting in settings for key in setting)
        telling = [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]
        for row, setting in zip(alike, settings, strict=True):
            shown = [f"{key}={plain(setting[key])}" for key in telling if key in setting]
            row["variant.label"] = row["variant.name"] + (f" ({', '.join(shown)})" if shown else "")


def plain(value: Any) -> str:
    """Return a setting as it would be typed: 8 for 8.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def limits(row: Row) -> Row:
    """Return the limits that a row ran with, by what is typed for them."""
    limited = [key for key in _SAME if key.startswith("run.limits.")]
    return {key.removeprefix("run."): value for key, value in row.items() if key in limited}
