"""Which figures may be stated as findings, and what to type to measure the others again.

A time is sound where nothing disturbed its timed runs and it has an interval. A speedup is sound where both of its
times are; measured in pairs, where its own runs are. Only a sound figure becomes a headline, a recommendation or a
verdict. Busy processes do not change peak memory; swapping makes a resident set smaller.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SWAPPED = "the system swapped"
"""How a record's sentence on swapping begins (`experiments.system.machine_state`)."""

RUN = Path(__file__).resolve().parents[2] / "run.py"
"""The checkout's command line, which an ordinary install lacks."""

Flat = Mapping[str, Any]
"""A record, or a row of `variants_table`."""


def time_doubt(row: Flat, of: str = "latency") -> str | None:
    """Return what makes a row's time doubtful, in a clause; None where it is sound.

    Args:
        row: of `variants_table`.
        of: the time's columns without their ends, "latency" or "stages.flow".
    """
    if row.get("disturbed"):
        return f"{_label(row)} was disturbed while it was timed ({row['disturbed'][0]})"
    if row.get(f"{of}.ci95_s") is None:
        return f"{_label(row)} was timed too few times for an interval"
    return None


def ratio_doubt(row: Flat, baseline: Flat, of: str = "latency") -> str | None:
    """Return what makes the ratio of two rows' times doubtful; None where both are sound."""
    return time_doubt(baseline, of) or time_doubt(row, of)


def paired_doubt(row: Flat, of: str = "speedup") -> str | None:
    """Return what makes a speedup that was measured in pairs doubtful; its baseline ran in the same process."""
    if row.get("disturbed"):
        return time_doubt(row)
    if row.get(f"{of}.ci95") is None:
        return f"{_label(row)} was run in too few pairs for an interval"
    return None


def speed_order(rows: Sequence[Flat]) -> Callable[[Flat], tuple[float, float]]:
    """Return a sort key that puts the fastest of these rows first, as the report and `recommend` both name it.

    By sound speedup over the published variant, whose own is 1, where every row with a sound figure has one; else by
    sound latency.
    """

    def latency_s(row: Flat) -> float:
        return math.inf if row.get("doubt.latency") else row.get("latency.median_s", math.inf)

    def speedup(row: Flat) -> float | None:
        if row.get("variant.name") == "published":
            return 1.0
        return None if row.get("doubt.speedup") else row.get("speedup.median")

    sound = [row for row in rows if speedup(row) is not None or latency_s(row) < math.inf]
    if all(speedup(row) is not None for row in sound):
        return lambda row: (-(speedup(row) or 0.0), row.get("latency.median_s", math.inf))
    return lambda row: (latency_s(row), 0.0)


def memory_doubt(row: Flat) -> str | None:
    """Return what makes a row's peak memory doubtful: swapping, where the peak is a resident set's."""
    swapped = next((sentence for sentence in row.get("disturbed") or () if sentence.startswith(SWAPPED)), None)
    if swapped is None or row.get("memory.kind") != "rss":
        return None
    return f"{_label(row)} was disturbed while its memory was measured ({swapped})"


def again(record: Flat) -> str:
    """Return the command that measures a doubtful record again, into its own run folder where that is there.

    A record without an interval gets more timed runs.
    """
    typed = command(record)
    keys = ["latency.ci95_s"] + (["speedup.ci95"] if "speedup.median" in record else [])
    if any(record.get(key) is None for key in keys):
        seconds = math.ceil(6 * record.get("latency.median_s", 10.0))
        typed += f" measure.min_samples=3 measure.max_samples=30 measure.max_seconds={seconds}"
        typed += " measure.min_pairs=6" if "speedup.median" in record else ""
    path = Path(str(record.get("path") or ""))
    if path.name == "record.json" and path.is_file():
        folder = path.parent
        if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
            folder = folder.relative_to(Path.cwd())
        if re.fullmatch(r"[\w./-]*\w", str(folder)):  # others would have to be quoted for Hydra and for the shell
            typed += f" hydra.run.dir={folder}"
    return typed


def command(record: Flat) -> str:
    """Return the command of a record; where it has none, the groups that differ from published."""
    variant = str(record.get("variant.id") or "").split("#")[0].replace("published", "").replace(",", " ")
    return typed(record.get("run.command") or f"python run.py {variant}".strip())


def typed(command: str) -> str:
    """Return a command as it is typed where the analysis runs: installed without run.py, as `propainter-bench`."""
    return command if RUN.is_file() else command.replace("python run.py", "propainter-bench", 1)


def _label(row: Flat) -> str:
    return str(row.get("variant.label") or row.get("option") or "it")
