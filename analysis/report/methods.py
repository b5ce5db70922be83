"""The fold at the end of a report: machine, versions, weights, data, and how it was measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.results import format as figures
from analysis.results import pooling
from analysis.results.rows import Row

if TYPE_CHECKING:
    import pandas as pd

MOST_MACHINES = 6
MOST_CLIPS = 20

_VERSIONS = (
    "device",
    "cpu",
    "cores",
    "threads",
    "torch",
    "torchvision",
    "cuda",
    "cudnn",
    "driver",
    "python",
    "platform",
)


def folds(frame: "pd.DataFrame", rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the folds, each with `title`, `text` (paragraphs) and `pairs` (label and value)."""
    records = pooling.rows_of(frame)
    return [
        {"title": "Measuring", "text": _measuring(records, rows), "pairs": []},
        *_machines(records),
        {"title": "Weights", "text": [], "pairs": _weights(records)},
        {"title": "Data", "text": [], "pairs": _clips(records)},
        *_left_out(frame),
    ]


def _measuring(records: list[pooling.Row], rows: Sequence[Row]) -> list[str]:
    runs = [len(record.get("latency.samples_s", ())) for record in records if record["status"] == "ok"]
    text = [
        f"{len(records)} records of {len(rows)} variants. Latency is the median of the timed runs, from frames in the "
        "host's memory to result frames there; a first run warms up and is not among them."
        + (f" There were {min(runs)} to {max(runs)} timed runs a record." if runs else "")
    ]
    text.append(
        "Intervals hold the true median with 95% confidence. Where a variant ran in several processes, the interval is "
        "taken from the differences between them; from inside one process otherwise. A paired speedup comes from runs "
        "made in turn with the baseline in one process; an unpaired one from two rows of the table, and is less sharp."
    )
    kinds = {row.memory_kind for row in rows}
    text += [f"Memory ({kind}) is {words}." for kind, words in figures.MEMORY_KINDS.items() if kind in kinds]
    text.append(
        "PSNR, SSIM and LPIPS compare the final 8-bit frames with the fp32 reference, the published variant's output "
        "with TF32 off. Hole means the pixels that were inpainted. LPIPS: lower is nearer."
    )
    marked = sum(bool(row.disturbed) for row in rows)
    if marked:
        text.append(f"{marked} of the variants are marked as disturbed: no finding rests on their times.")
    return text


def _machines(records: list[pooling.Row]) -> list[dict[str, Any]]:
    machines: dict[str, pooling.Row] = {}
    for record in records:
        if record.get("environment.device"):
            machines.setdefault(pooling.machine_key(record), record)
    shown = [
        {
            "title": "Machine and versions" if len(machines) == 1 else f"Machine: {figures.where(record)}",
            "text": [],
            "pairs": _machine(record),
        }
        for record in list(machines.values())[:MOST_MACHINES]
    ]
    more = len(machines) - len(shown)
    return shown + ([{"title": f"{more} more machines", "text": ["See the records."], "pairs": []}] if more else [])


def _machine(record: pooling.Row) -> list[tuple[str, str]]:
    versions = {name: record.get(f"environment.{name}") for name in _VERSIONS}
    pairs = [(name, pooling.plain(value)) for name, value in versions.items() if value is not None]
    if "environment.commit" in record:
        changed = " with changes not committed" if record.get("environment.dirty") is True else ""
        pairs.append(("commit", f"{record['environment.commit']}{changed}"))
    start = "environment.packages."
    packages = [f"{key.removeprefix(start)} {value}" for key, value in record.items() if key.startswith(start)]
    if packages:
        pairs.append(("packages", ", ".join(packages)))
    start = "machine.ceilings.flops_per_s."
    peaks = [f"{key.removeprefix(start)} {value / 1e9:,.0f}" for key, value in record.items() if key.startswith(start)]
    if peaks:
        pairs.append(("measured peak [GFLOP/s]", ", ".join(peaks)))
    if "machine.ceilings.copy_bytes_per_s" in record:
        pairs.append(("measured copy rate", f"{record['machine.ceilings.copy_bytes_per_s'] / 1e9:,.1f} GB/s"))
    return pairs


def _weights(records: list[pooling.Row]) -> list[tuple[str, str]]:
    pairs: dict[tuple[str, str | None], str] = {}
    for record in records:
        if record.get("weights.source"):
            reason = record.get("weights.reason")
            text = record.get("weights.fingerprint", "no fingerprint")
            if pooling.architecture(record) != "published":
                text += f", {pooling.architecture(record)} networks, narrower than the published ones"
            text += f": {reason}" if reason else ""
            pairs.setdefault((record["weights.source"], record.get("weights.fingerprint")), text)
    return [(source, text) for (source, _), text in pairs.items()]


def _clips(records: list[pooling.Row]) -> list[tuple[str, str]]:
    clips: dict[str, tuple[str, str]] = {}
    for record in records:
        fingerprint = record.get("data.fingerprint")
        if fingerprint is not None and fingerprint not in clips:
            hole = record.get("data.hole_fraction")
            text = figures.size(record) + (f", hole {100 * hole:.1f}%" if hole is not None else "")
            clips[fingerprint] = (fingerprint, text)
    pairs = list(clips.values())
    more = len(pairs) - MOST_CLIPS
    return pairs[:MOST_CLIPS] + ([("", f"and {more} more clips")] if more > 0 else [])


def _left_out(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    sentences = frame.attrs.get("left_out") or []
    return [{"title": f"Left out ({len(sentences)})", "text": list(sentences[:100]), "pairs": []}] if sentences else []
