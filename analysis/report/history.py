"""The page of `python -m analysis history`: steps, machines side by side, and each series as plots."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.plots.base import Plot, render, styled
from analysis.plots.history import over_versions
from analysis.report.page import in_columns
from analysis.report.template import asset, template
from analysis.results import format as figures
from analysis.results.history import DECIBEL_LEAST, FIGURES, RATIO_LEAST, Found, Series
from analysis.results.pooling import architecture
from analysis.results.steps import FALSE_STEPS, LEAST_POINTS

RULE = (
    "A step is where the means before and after differ by more than the scatter explains: at least "
    f"{RATIO_LEAST:.0%}, or {DECIBEL_LEAST} dB, in a series of at least {LEAST_POINTS} points. "
    "The bound is divided by the number of all "
    f"comparisons on this page (Bonferroni), so that at most {FALSE_STEPS:.1%} of such pages, of noise alone, show any "
    "step. The interval in brackets is the 95% interval of the change."
)
"""How steps are found, for readers."""


def page(found: Sequence[Series], steps: Sequence[Found], plots: Path, left_out: Sequence[str] = ()) -> str:
    """Return the page, and write its plots as PNG and SVG into a folder.

    Args:
        found: all series.
        steps: of `find_steps`.
        plots: the folder; those of an earlier page that this one lacks are removed.
        left_out: sentences on files that could not be read.
    """
    drawn = _drawn(found, steps, plots)
    starts = sorted(point.started[:10] for series in found for point in series.points if point.started)
    versions = {point.version for series in found for point in series.points}
    return template("history.html.j2").render(
        facts=[
            f"{len(found)} series",
            f"{len({series.machine for series in found})} machines",
            f"{len(versions)} versions",
            *([starts[0] if starts[0] == starts[-1] else f"{starts[0]} to {starts[-1]}"] if starts else []),
        ],
        steps=[step.sentence for step in steps],
        rule=RULE,
        side_by_side=side_by_side(found),
        machines=[(name, in_columns(of_machine)) for name, of_machine in drawn.items()],
        left_out=left_out,
        css=asset("report.css"),
    )


def _drawn(found: Sequence[Series], steps: Sequence[Found], folder: Path) -> dict[str, list[Plot]]:
    by_machine: dict[str, list[Plot]] = defaultdict(list)
    with styled():
        for series in found:
            for figure in FIGURES:
                mine = [step for step in steps if step.series is series and step.figure is figure]
                text = f"{series.machine}, {series.name}, {series.setting}"
                name = f"{figure.key}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
                drawing = over_versions(name, series, figure, mine)
                if drawing is not None:
                    by_machine[series.machine].append(render(drawing, folder))
    known = {plot.name for drawn in by_machine.values() for plot in drawn}
    for file in folder.glob("*") if folder.is_dir() else ():
        if file.suffix in (".png", ".svg") and file.stem not in known and file.stem.split("-")[0] in _KEYS:
            file.unlink()
    return dict(by_machine)


_KEYS = {figure.key for figure in FIGURES}


def side_by_side(found: Sequence[Series]) -> list[dict[str, Any]]:
    """Return a table for each clip and weights that several machines ran: the newest figures of each variant.

    Speedup over published and peak memory of one kind may be compared across machines; latency says how fast each is.
    """
    settings: dict[tuple, list[Series]] = defaultdict(list)
    for series in found:
        row = series.last
        settings[row.get("data.fingerprint"), row.get("weights.fingerprint"), architecture(row)].append(series)
    tables = []
    for alike in settings.values():
        machines = list(dict.fromkeys(series.machine for series in alike))
        if len(machines) < 2:
            continue
        names = list(dict.fromkeys(series.name for series in alike))
        cells = {(series.name, series.machine): _newest(series) for series in alike}
        lines = [[name, *(cells.get((name, machine), "not run") for machine in machines)] for name in names]
        tables.append({"title": alike[0].setting, "header": ["variant", *machines], "lines": lines})
    return tables


def _newest(series: Series) -> str:
    row, parts = series.last, []
    if row.get("latency.median_s") and not row.get("doubt.latency"):
        parts.append(figures.seconds(row["latency.median_s"]))
    if row.get("speedup.median") and not row.get("doubt.speedup"):
        unpaired = " unpaired" if row.get("speedup.kind") == "unpaired" else ""
        parts.append(figures.times(row["speedup.median"], row.get("speedup.ci95")) + unpaired)
    if row.get("memory.peak_bytes"):
        parts.append(f"{figures.memory(row['memory.peak_bytes'])} of {row.get('memory.kind')}")
    return "; ".join(parts) or "doubtful"
