"""`python -m analysis compare A B`: two sweeps side by side, two torch versions say, or two machines."""

import argparse
import math
from pathlib import Path

from analysis.commands.table import markdown
from analysis.errors import InputError
from analysis.records.atomic import print_or_write
from analysis.records.load import load_some
from analysis.results import format as figures
from analysis.results import intervals
from analysis.results.pairing import differences, match
from analysis.results.pooling import Row, decibel, rows_of, unpaired, variants_table
from analysis.results.soundness import time_doubt

HEADER = (
    "variant",
    "latency A",
    "latency B",
    "B is faster by",
    "memory A",
    "memory B",
    "PSNR in the hole A",
    "B",
    "output",
)


def compare(first: list[Row], second: list[Row]) -> str:
    """Return Markdown of the rows of two `variants_table`s, those of the same variant, data and weights side by side.

    Raises:
        InputError: they have nothing to compare.
    """
    pairs = [(row, found) for row in first if (found := match(row, second)) is not None]
    if not pairs:
        raise InputError(f"these two can't be compared: {'; '.join(differences(first, second))}.")
    lines = [f"A: {_places(first)}", f"B: {_places(second)}", ""]
    several = len({row.get("data.fingerprint") for row, _ in pairs}) > 1
    lines.append(markdown(HEADER, [_cells(row, other, several) for row, other in pairs]))
    if any(row["place"] != other["place"] for row, other in pairs):
        lines.append(
            "Times and memory are of different devices, threads or versions: what differs between them is in them too."
        )
    lines.append(
        "A speedup whose interval holds 1 shows no difference. Its times were measured independently: intervals that "
        "come from one process miss what differs between processes (repeat=0,1,2 has it in them)."
    )
    agreement = figures.agreement([row for row, _ in pairs])
    lines += [agreement] if agreement else []
    for name, rows, others in (("A", first, second), ("B", second, first)):
        alone = [row["variant.label"] for row in rows if match(row, others) is None]
        if alone:
            lines.append(f"Only in {name}: {'; '.join(alone)}.")
    if any(row.get("disturbed") or other.get("disturbed") for row, other in pairs):
        lines.append("* disturbed while it was timed.")
    for name, rows in (("A", [row for row, _ in pairs]), ("B", [other for _, other in pairs])):
        lines += [f"{name}: {text}" for text in figures.what_to_measure_again(rows)]
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("a", type=Path, metavar="A", help="a sweep folder, record file or parquet")
    parser.add_argument("b", type=Path, metavar="B", help="another")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a file instead of the screen")


def main(arguments: argparse.Namespace) -> int:
    """Print or write the comparison as Markdown; 0."""
    first, second = (rows_of(variants_table(load_some(path))) for path in (arguments.a, arguments.b))
    text = compare(first, second)
    print_or_write(text, arguments.output)
    return 0


def _cells(row: Row, other: Row, several: bool) -> list[str]:
    shown = [row["variant.label"] + (f", {figures.size(row)}" if several else "")]
    for one in (row, other):
        latency = figures.seconds(one.get("latency.median_s"), one.get("latency.ci95_s"))
        shown.append((latency or one["status"]) + (" *" if one.get("disturbed") else ""))
    shown.append(_faster(row, other))
    shown += [figures.memory(one.get("memory.peak_bytes")) for one in (row, other)]
    shown += [figures.psnr(one) for one in (row, other)]
    return [*shown, _output(row, other)]


def _faster(row: Row, other: Row) -> str:
    figure = unpaired(row, other, "latency", "it")
    if not figure:
        return ""
    doubtful = [name for name, one in (("A", row), ("B", other)) if time_doubt(one)]
    if doubtful or figure["it.ci95"] is None:
        return f"not stated: {' and '.join(doubtful)} doubtful"
    text = figures.times(figure["it.median"], figure["it.ci95"])
    if not intervals.disjoint(figure["it.ci95"], [1.0, 1.0]):
        return f"{text}, no difference shown"
    return f"{text}, {'faster' if figure['it.median'] > 1 else 'slower'}"


def _output(row: Row, other: Row) -> str:
    before, after = decibel(row), decibel(other)
    if row["status"] != other["status"]:
        return f"{row['status']} in A, {other['status']} in B"
    if before is None or after is None:
        return ""
    if before == after:
        return "same PSNR"
    if math.inf in (before, after):
        return "identical to its reference in one only"
    return f"{after - before:+.1f} dB"


def _places(rows: list[Row]) -> str:
    places = dict.fromkeys(figures.where(row) for row in rows)
    return "; ".join(places)
