"""`python -m analysis report`: one page that says what to use, with table, plots and frames, in a single HTML file."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.commands import claims
from analysis.commands.table import evaluation_markdown, evaluations_csv, to_csv, to_markdown
from analysis.errors import InputError
from analysis.plots import cost, quality, scaling, stages
from analysis.plots.base import Plot, render, styled
from analysis.records.atomic import write_text
from analysis.records.evaluation import Evaluation
from analysis.records.load import load_micro, load_with_evaluations
from analysis.report import findings, header
from analysis.report import table as page_table
from analysis.report import truth as page_truth
from analysis.report.collect import rows_of
from analysis.report.methods import folds
from analysis.report.template import asset, template
from analysis.report.viewer import frames_of
from analysis.results.pooling import variants_table
from analysis.results.rows import Row, notable

if TYPE_CHECKING:
    import pandas as pd

PLOTS = {
    *("waterfall", "speedup", "memory", "pareto", "stages", "fraction_of_peak", "psnr_per_frame", "interaction"),
    *("growth_frames", "growth_pixels"),
    *page_truth.PLOTS,
}
"""The names of all plots that a report may have; those of an earlier report that this one lacks are removed."""

MOST_SETTINGS = 12
"""Settings after the first whose findings are listed."""


def main(paths: Sequence[Path], out: Path | None = None) -> int:
    """Write the report and print where it is: 0; 2, with the reason on stderr, where it can't be written."""
    try:
        page = write_report(paths, out)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"the report could not be written: {error}; free some space or give another file with -o.", file=sys.stderr
        )
        return 2
    print(f"report: {page}")
    return 0


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report on all records and evaluations in `paths`; returns the page's path.

    The folder of `out` (report.html in the first folder) gets the table too, as `.csv` and `.md` of the same name, and
    the plots as PNG and SVG in a folder of that name and `_plots`.

    Raises:
        InputError: neither a record nor an evaluation, or a path that does not exist.
        OSError: the folder can't be written to, or the disk is full.
    """
    paths = [Path(path) for path in paths]
    frame, evaluations = load_with_evaluations(*paths)
    out = _default_out(paths[0]) if out is None else Path(out)
    table = variants_table(frame)
    rows = rows_of(frame, table)
    if not rows and not evaluations:
        raise InputError(f"the records in {', '.join(map(str, paths))} are of no inpainting run; give others.")
    below = "".join(f"\n{evaluation_markdown(one)}" for one in evaluations)
    write_text(out.with_suffix(".csv"), to_csv(table) if rows else evaluations_csv(evaluations))
    write_text(out.with_suffix(".md"), to_markdown(table) + below if rows else below.removeprefix("\n"))
    page = _page(
        _without_videos(frame), table, rows, load_micro(*paths), evaluations, out.with_name(f"{out.stem}_plots")
    )
    write_text(out, page)
    return out


def _without_videos(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the records without those of an evaluation's single videos, which its own table pools."""
    if "run.task" not in frame.columns:
        return frame
    kept = frame[frame["run.task"] != "evaluate"]
    kept.attrs = dict(frame.attrs)
    return kept


def _default_out(path: Path) -> Path:
    return (path if path.is_dir() else path.parent) / "report.html"


def _page(
    frame: "pd.DataFrame",
    table: "pd.DataFrame",
    rows: list[Row],
    micro: "pd.DataFrame",
    evaluations: list[Evaluation],
    plots_folder: Path,
) -> str:
    settings = by_setting(rows)
    main_rows = settings[0] if settings else []
    several = page_table.several_settings(rows)
    truth = page_table.knows_truth(rows)
    viewer = frames_of(_viewer_order(settings))
    drawn = _plots(rows, main_rows, evaluations, plots_folder)
    return template("report.html.j2").render(
        title=f"ProPainter Bench: {len(rows) or len(evaluations[0].variants)} variants",
        heading="ProPainter Bench: what to use",
        facts=header.facts(frame, rows) if rows else page_truth.facts(evaluations),
        notices=header.notices(frame, rows, evaluations),
        lead=header.lead(main_rows, several),
        findings=findings.findings(main_rows),
        other_settings=[header.line(other) for other in settings[1 : MOST_SETTINGS + 1]],
        settings_left_out=_left_out(len(settings) - 1 - MOST_SETTINGS),
        columns=page_table.columns(rows),
        rows=[
            {"row": row, "why": page_table.why(row), "cells": page_table.cells(row, several, truth)}
            for row in page_table.ordered(settings)
        ],
        statuses=sorted(Counter(row.status for row in rows).items()),
        any_disturbed=any(row.disturbed for row in rows),
        table_caption=_table_caption(rows),
        table_note=_table_note(plots_folder),
        truth=page_truth.section(evaluations, drawn),
        plots=in_columns([plot for plot in drawn if plot.name not in page_truth.PLOTS]),
        plots_note=f"Of {main_rows[0].setting}, except growth." if several and main_rows[0].setting else "",
        viewer=viewer,
        viewer_json=_for_script(viewer),
        viewer_note=_viewer_note(viewer, rows),
        claims=_claims(table, micro, evaluations),
        claims_lead=_claims_lead(rows),
        folds=folds(frame, rows) if rows else page_truth.folds(evaluations),
        footer="Made from records alone, by python -m analysis report. Nothing on this page is loaded from elsewhere.",
        css=asset("report.css"),
        js=asset("report.js"),
    )


def by_setting(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows that may be compared with each other, together; the setting in which most variants ran first."""
    settings: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        settings[row.key].append(row)
    return sorted(settings.values(), key=lambda group: -sum(row.ok for row in group))


def _plots(rows: list[Row], main_rows: list[Row], evaluations: list[Evaluation], folder: Path) -> list[Plot]:
    ok = [row for row in main_rows if row.ok]
    quality_word = findings.quality_word(rows)
    with styled():
        drawings = [
            *page_truth.drawings(ok, evaluations),
            cost.waterfall(ok),
            cost.speedup_bars(ok),
            cost.memory_bars(ok),
            cost.pareto(ok, quality_word),
            stages.stages(ok),
            stages.fraction_of_peak(ok),
            quality.psnr_per_frame(ok, quality_word),
            quality.interaction(main_rows),
            scaling.with_frames(rows),
            scaling.with_pixels(rows),
        ]
        drawn = [render(drawing, folder) for drawing in drawings if drawing is not None]
    for name in PLOTS - {plot.name for plot in drawn}:
        for suffix in ("png", "svg"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return drawn


def in_columns(drawn: Sequence[Plot]) -> list[list[tuple[int, Plot]]]:
    """Return the plots with their places, in two columns of about the same height."""
    columns: list[list[tuple[int, Plot]]] = [[], []]
    heights = [0.0, 0.0]
    for place, plot in enumerate(drawn):
        shorter = heights.index(min(heights))
        columns[shorter].append((place, plot))
        heights[shorter] += plot.height_inches + 1.2  # title, caption and fold
    return [column for column in columns if column]


def _viewer_order(settings: list[list[Row]]) -> list[Row]:
    """Return all rows, setting by setting; in each the notable ones first, of these published at the head."""
    ordered = []
    for group in settings:
        first = notable(group, 12)
        chosen = {id(row) for row in first}
        first.sort(key=lambda row: (not row.published, row.latency_s or 0.0))
        ordered += [*first, *(row for row in group if id(row) not in chosen)]
    return ordered


def _left_out(count: int) -> str:
    return f"{count} more settings are in the table." if count > 0 else ""


def _table_caption(rows: list[Row]) -> str:
    text = "Latency is the median of the timed runs, with half the 95% interval's width; speedup is over the published "
    text += "variant, with its interval."
    if findings.quality_word(rows) == "agreement":
        text += " PSNR, SSIM and LPIPS are numerical agreement with the fp32 reference, not visual quality."
    if page_table.knows_truth(rows):
        text += f" {page_table.TRUTH}: PSNR in the hole against what is really behind it, with the reference's own."
    return text


def _table_note(folder: Path) -> str:
    stem = folder.name.removesuffix("_plots")
    return f"The same table is in {stem}.csv and {stem}.md, the plots are in {folder.name}/, beside this page."


def _viewer_note(viewer: dict[str, Any], rows: list[Row]) -> str:
    text = "Frames are made small for this page; each run folder has them larger."
    if findings.quality_word(rows) == "agreement":
        text += (
            " With seeded weights the picture in the hole means nothing: look at the difference, not at the picture."
        )
    if viewer["left_out"]:
        text += (
            f" {viewer['left_out']} more variants have frames in their run folders, left out to keep this page small."
        )
    return text


def _claims(table: "pd.DataFrame", micro: "pd.DataFrame", evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    verdicts = claims.evaluate(table, micro if len(micro) else None, evaluations=evaluations)
    return [
        {"title": "Measured", "fold": False, "claims": [claim for claim in verdicts if claim["measured"]]},
        {"title": "Not measured", "fold": True, "claims": [claim for claim in verdicts if not claim["measured"]]},
    ]


def _claims_lead(rows: list[Row]) -> str:
    text = "What the optimisation plan promised (docs/plan.md), and what these records say of it."
    if findings.quality_word(rows) == "agreement":
        text += " With seeded weights no claim of quality is judged."
    return text


def _for_script(value: dict[str, Any]) -> str:
    """Return JSON that can't end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
