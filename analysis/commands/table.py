"""`python -m analysis table`: one row a variant, as Markdown or CSV."""

import argparse
import csv
import difflib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import InputError
from analysis.records.atomic import print_or_write
from analysis.records.evaluation import Evaluation
from analysis.records.load import load_with_evaluations
from analysis.results import evaluation_table, soundness
from analysis.results import format as figures
from analysis.results.pooling import Row, rows_of, truth_decibel, variants_table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: dict[str, Callable[[Row], str]] = {
    "variant": lambda row: row["variant.label"] + (" (disturbed)" if row.get("disturbed") else ""),
    "data": figures.size,
    "device": figures.where,
    "status": lambda row: row["status"] + (f": {row['reason']}" if row.get("reason") else ""),
    "latency": lambda row: figures.seconds(row.get("latency.median_s"), row.get("latency.ci95_s")),
    "speedup": lambda row: (
        figures.times(row.get("speedup.median"), row.get("speedup.ci95"))
        + (" unpaired" if row.get("speedup.kind") == "unpaired" else "")
        + (" doubtful" if row.get("doubt.speedup") else "")
    ),
    "memory": lambda row: figures.memory(row.get("memory.peak_bytes")),
    "psnr_hole": figures.psnr,
    "psnr_to_truth": figures.truth_psnr,
    "ssim": lambda row: f"{row['quality.ssim']:.5f}" if "quality.ssim" in row else "",
    "lpips": lambda row: f"{row['quality.lpips']:.5f}" if "quality.lpips" in row else "",
    "command": lambda row: soundness.typed(row.get("run.command", "")),
}
"""Columns made for people; any column of `variants_table` can be asked for too."""

USUAL = ("variant", "status", "latency", "speedup", "memory", "psnr_hole", "ssim", "lpips")

RAW = (
    "variant.label",
    "variant.id",
    "data.name",
    "data.frames",
    "data.height",
    "data.width",
    "environment.device",
    "environment.torch",
    "weights.source",
    "status",
    "reason",
    "processes",
    "latency.median_s",
    "latency.ci95_s",
    "speedup.median",
    "speedup.ci95",
    "speedup.kind",
    "memory.kind",
    "memory.peak_bytes",
    "quality.identical",
    "quality.psnr_hole_db",
    "quality.ssim",
    "quality.lpips",
    "quality.truth.psnr_hole_db",
    "quality.truth.reference_psnr_hole_db",
    "quality.truth.ssim",
    "quality.truth.lpips",
    "disturbed",
    "doubt.latency",
    "doubt.speedup",
    "doubt.memory",
    "run.command",
)
"""Columns of the CSV by default: bare numbers in the unit of their name."""


def to_markdown(table: "pd.DataFrame", columns: Sequence[str] | None = None) -> str:
    """Return a Markdown table of a `variants_table`.

    Args:
        columns: of `COLUMNS`, or the table's own; by default `USUAL`, with data and device where there are several,
            and with the PSNR against the truth where a row knows it.

    Raises:
        InputError: a column that is not there.
    """
    rows = rows_of(table)
    if columns is None:
        telling = [key for key in ("data", "device") if len({COLUMNS[key](row) for row in rows}) > 1]
        truth = ["psnr_to_truth"] if any(truth_decibel(row) is not None for row in rows) else []
        columns = [USUAL[0], *telling, *USUAL[1:], *truth]
    return markdown(columns, cells(table, rows, columns))


def to_csv(table: "pd.DataFrame", columns: Sequence[str] | None = None) -> str:
    """Return the same as CSV, by default `RAW`; intervals take two columns, `.low` and `.high`.

    Raises:
        InputError: a column that is not there.
    """
    rows = rows_of(table)
    columns = [column for column in RAW if column in table.columns] if columns is None else list(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranges = {column for column in columns if column.endswith(("ci95", "ci95_s"))}
    writer.writerow([part for c in columns for part in ([f"{c}.low", f"{c}.high"] if c in ranges else [c])])
    for row, shown in zip(rows, cells(table, rows, columns), strict=True):
        line: list[Any] = []
        for column, cell in zip(columns, shown, strict=True):
            line += row.get(column) or ["", ""] if column in ranges else [cell]
        writer.writerow(line)
    return text.getvalue()


def evaluation_markdown(evaluation: Evaluation) -> str:
    """Return an evaluation's pooled table as Markdown: its head, the table, and what must be said of it."""
    table = markdown(evaluation_table.header(evaluation), evaluation_table.lines(evaluation))
    lines = "\n".join(evaluation_table.notes(evaluation))
    return f"Quality against the truth: {evaluation_table.head(evaluation)}\n\n{table}\n{lines}\n"


def evaluations_csv(evaluations: Sequence[Evaluation]) -> str:
    """Return the pooled tables of evaluations as one CSV of bare numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(evaluation_table.RAW_HEADER)
    for evaluation in evaluations:
        writer.writerows(evaluation_table.raw_lines(evaluation))
    return text.getvalue()


def cells(table: "pd.DataFrame", rows: list[Row], columns: Sequence[str]) -> list[list[str]]:
    """Return the text of each cell.

    Raises:
        InputError: a column that is not there.
    """
    known = {**dict.fromkeys(table.columns), **COLUMNS}
    for column in columns:
        if column not in known:
            near = difflib.get_close_matches(column, known, 3, 0.4) or list(COLUMNS)
            raise InputError(f"there is no column {column!r}; the nearest are {', '.join(map(str, near))}.")
    return [[COLUMNS[c](row) if c in COLUMNS else _plain(row.get(c)) for c in columns] for row in rows]


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar or a line break in a cell can't break it."""
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(header), rule, *rows]) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="sweep folders, record files or parquet")
    parser.add_argument("--format", choices=("markdown", "csv"), default="markdown")
    parser.add_argument(
        "--columns",
        metavar="A,B",
        help=f"any of {', '.join(COLUMNS)}, or a key of the records as in latency.median_s",
    )
    parser.add_argument("--sort", metavar="KEY", help="a key of the records, as in latency.median_s")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a file instead of the screen")


def main(arguments: argparse.Namespace) -> int:
    """Print or write the table, and below it that of each evaluation; 0."""
    frame, evaluations = load_with_evaluations(*arguments.paths)
    table = variants_table(frame)
    if table.empty and evaluations:
        return _evaluations_alone(arguments, evaluations)
    if arguments.sort:
        cells(table, [], [arguments.sort])
        if arguments.sort not in table.columns:
            raise InputError(f"{arguments.sort!r} can't be sorted by; give a key as in latency.median_s.")
        table = table.sort_values(arguments.sort, key=_sortable)
    columns = [column.strip() for column in arguments.columns.split(",")] if arguments.columns else None
    text = (to_csv if arguments.format == "csv" else to_markdown)(table, columns)
    below = "" if arguments.format == "csv" or columns else "".join(f"\n{evaluation_markdown(e)}" for e in evaluations)
    if arguments.output is not None or arguments.format == "csv":
        print_or_write(text + below, arguments.output)
        return 0
    print_or_write(text, None)
    rows = rows_of(table)
    note = figures.agreement(rows)
    for line in [*([note] if note else []), *figures.what_to_measure_again(rows)]:
        print(f"\n{line}")
    print(below, end="")
    return 0


def _evaluations_alone(arguments: argparse.Namespace, evaluations: Sequence[Evaluation]) -> int:
    if arguments.columns or arguments.sort:
        raise InputError("there is an evaluation and no record of a run, so --columns and --sort can't be used.")
    if arguments.format == "csv":
        text = evaluations_csv(evaluations)
    else:
        text = "\n".join(map(evaluation_markdown, evaluations))
    print_or_write(text, arguments.output)
    return 0


def _sortable(column: "pd.Series") -> "pd.Series":
    return column if column.dtype.kind in "iufb" else column.map(str)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.6g}"
    return "" if value is None else str(int(value) if isinstance(value, float) else value)
