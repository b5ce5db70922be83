"""`python -m analysis history FOLDER... -o site/`: each variant over versions and machines, and where it changed."""

import argparse
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.errors import InputError
from analysis.records.atomic import write_text
from analysis.records.load import load_some
from analysis.results.history import FIGURES, Found, Series, find_steps, series_of
from analysis.results.soundness import command

PAGE, POINTS, NEWEST = "index.html", "history.csv", "benchmark.json"
"""Files of a history, in its folder."""

HEADER = (
    *("machine", "variant", "setting", "started", "commit", "torch", "folder", "figure", "unit"),
    *("value", "ci95.low", "ci95.high", "doubt"),
)


def points_csv(found: Sequence[Series]) -> str:
    """Return all points of all series as CSV, a line for each figure: bare numbers, doubtful ones with the reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for series in found:
        for point in series.points:
            row = point.row
            for figure in FIGURES:
                value = figure.value(row)
                if value is None:
                    continue
                known: list[Any] = [series.machine, series.name, series.setting, point.started, point.commit]
                known += [row.get("environment.torch"), point.set, figure.key, figure.unit]
                doubt = row.get(figure.doubt) if figure.doubt else None
                writer.writerow([*known, value, *(figure.interval(row) or ("", "")), doubt or ""])
    return text.getvalue()


def newest(found: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the newest point of each series for github-action-benchmark's `customSmallerIsBetter`.

    Latency in seconds and peak memory in MiB, each as `name`, `unit`, `value`, `range` (half the 95% interval) and
    `extra` (version and command). Doubtful figures are left out.
    """
    entries = []
    for series in found:
        at = len(series.points) - 1
        point = series.points[at]
        for figure in FIGURES:
            value = dict(series.sound(figure)).get(at)
            if not figure.smaller_is_better or value is None:
                continue
            entry: dict[str, Any] = {
                "name": f"{series.name}, {figure.title}: {series.setting}, {series.machine}",
                "unit": figure.unit,
                "value": value,
                "extra": f"{point.version}\n{command(point.row)}",
            }
            if interval := figure.interval(point.row):
                entry["range"] = f"± {(interval[1] - interval[0]) / 2:.3g}"
            entries.append(entry)
    return entries


def described(steps: Sequence[Found], found: Sequence[Series]) -> list[str]:
    """Return the steps, a sentence each; or that there is none, and among how many points."""
    points = sum(len(series.points) for series in found)
    over = f"{len(found)} series with {points} points"
    return [step.sentence for step in steps] or [f"no step in {over}"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="folders with records, such as baselines/")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help=f"a folder for {PAGE}, {POINTS} and {NEWEST}")


def main(arguments: argparse.Namespace, page: Callable[..., str]) -> int:
    """Print the steps, and write page, points and the newest figures where a folder is given; 0.

    Args:
        arguments: of the command line.
        page: returns the page of series, steps, a folder for plots, and sentences on what was left out.

    Raises:
        InputError: no record of a run that went well, or a file where the folder should be.
    """
    target: Path | None = arguments.output
    if target is not None and target.exists() and not target.is_dir():
        raise InputError(f"-o is {target}, which is a file; give a folder for the page and its files.")
    # A machine's evidence lies in a tar, which is otherwise read where it is given by name.
    tars = [tar for path in arguments.paths if path.is_dir() for tar in sorted(path.rglob("records.tar"))]
    frame = load_some(*arguments.paths, *tars)
    found = series_of(frame)
    if not found:
        given = ", ".join(map(str, arguments.paths))
        raise InputError(f"no record in {given} is of a run that went well and was timed; give others.")
    steps = find_steps(found)
    for line in described(steps, found):
        print(line)
    if target is not None:
        write_text(target / PAGE, page(found, steps, target / "plots", frame.attrs.get("left_out") or []))
        write_text(target / POINTS, points_csv(found))
        write_text(target / NEWEST, json.dumps(newest(found), indent=2, ensure_ascii=False) + "\n")
        print(f"history: {target / PAGE}")
    return 0
