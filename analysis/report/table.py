"""The table of the report's page. (As CSV and as Markdown it is `analysis.commands.table`'s.)"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report.findings import quality_word
from analysis.results.format import memory, seconds, times, truth_psnr
from analysis.results.rows import Row


@dataclass(frozen=True)
class Column:
    """Describe a column; `kind` is a class in the page: "number" sorts by value, "larger" with the largest first."""

    head: str
    kind: str
    unit: str = ""
    sort: str = "none"

    @property
    def label(self) -> str:
        """Return head and unit."""
        return f"{self.head}, {self.unit}" if self.unit else self.head


@dataclass(frozen=True)
class Cell:
    """Hold a cell: its text, a smaller text after it, what it is sorted by ("" goes last), and a badge."""

    text: str
    value: str = ""
    kind: str = ""
    sub: str = ""
    badge: str = ""
    badge_kind: str = ""


TRUTH = "To truth"
"""The head of the column on the truth."""

IDENTICAL_SORTS_AS_DB = 1e6

_STATUS_BADGES = {"unsupported": "dim"}


def ordered(settings: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows of one setting after the other, the fastest first; what did not run last, by status and name."""
    order = [sorted(rows, key=lambda r: (not r.ok, r.latency_s or 0.0, r.status, r.name)) for rows in settings]
    return [row for rows in order for row in rows]


def columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns: one more says the setting where there are several, one the PSNR to the truth if known."""
    kind = "agreement" if quality_word(rows) == "agreement" else ""
    settings = [Column("Setting", "text")] if several_settings(rows) else []
    return [
        Column("Variant", "text"),
        *settings,
        Column("Latency", "number", sort="none" if settings else "ascending"),
        Column("Speedup", "number larger"),
        Column("Peak memory", "number"),
        Column("PSNR (hole)", "number larger", f"dB{', ' + kind if kind else ''}"),
        Column("SSIM", "number larger", kind),
        Column("LPIPS", "number", kind),
        *([Column(TRUTH, "number larger", "dB (hole)")] if knows_truth(rows) else []),
        Column("Status", "text"),
    ]


def knows_truth(rows: Sequence[Row]) -> bool:
    """Return whether any row was compared with the truth."""
    return any(row.truth_psnr_hole_db is not None for row in rows)


def cells(row: Row, with_setting: bool, with_truth: bool = False) -> list[Cell]:
    """Return a row's cells, in the columns' order."""
    disturbed = "disturbed" if row.disturbed else ""
    return [
        Cell(row.name, row.name),
        *([Cell(row.setting, row.setting, "setting")] if with_setting else []),
        _number(row.latency_s, seconds, _half_width(row.latency_ci_s, row.latency_s)),
        _speedup(row),
        _number(row.peak_bytes, memory, _spread(row)),
        Cell(row.psnr_text, str(IDENTICAL_SORTS_AS_DB) if row.identical else _plain(row.psnr_hole_db), "number"),
        _number(row.ssim, "{:.5f}".format),
        _number(row.lpips, "{:.5f}".format),
        *([_truth(row)] if with_truth else []),
        Cell(
            "" if row.status != "ok" else "ok",
            row.status,
            "status",
            badge=row.status.replace("_", " ") if row.status != "ok" else disturbed,
            badge_kind=_STATUS_BADGES.get(row.status, "bad") if row.status != "ok" else "warn",
        ),
    ]


def why(row: Row) -> str:
    """Return why it did not run, what disturbed it, or why its speedup is doubtful; empty for most."""
    doubt = [row.speedup_doubt] if row.speedup_doubt and not row.disturbed else []
    return "; ".join([*([row.reason] if row.reason else []), *row.disturbed, *doubt])


def several_settings(rows: Sequence[Row]) -> bool:
    """Return whether there is more than one clip, device, set of weights, schedule or limit."""
    return len({row.key for row in rows}) > 1


def _number(value: float | None, form, sub: str = "") -> Cell:
    return Cell("", "", "number") if value is None else Cell(form(value), _plain(value), "number", sub)


def _truth(row: Row) -> Cell:
    value = row.truth_psnr_hole_db
    if value is None:
        return Cell("", "", "number")
    reference = truth_psnr(row.flat, "reference_").removesuffix(" dB")
    sub = f"ref. {reference}" if reference else ""
    return Cell(truth_psnr(row.flat).removesuffix(" dB"), _plain(min(value, IDENTICAL_SORTS_AS_DB)), "number", sub)


def _speedup(row: Row) -> Cell:
    if row.published and row.ok:
        return Cell("1", "1", "number", "published")
    if row.speedup is None:
        return _speedup_elsewhere(row)
    sub = f"{row.speedup_ci[0]:.2f} to {row.speedup_ci[1]:.2f}" if row.speedup_ci else ""
    if row.speedup_kind == "paired":
        sub += " paired"
    doubtful = "doubtful" if row.speedup_doubt else ""
    return Cell(times(row.speedup), _plain(row.speedup), "number", sub.strip(), doubtful, "warn" if doubtful else "")


def _speedup_elsewhere(row: Row) -> Cell:
    if row.speedup_elsewhere is None:
        return Cell("", "", "number")
    value, baseline = row.speedup_elsewhere
    return Cell(times(value), _plain(value), "number", f"over {baseline}")


def _half_width(bounds: tuple[float, float] | None, value: float | None) -> str:
    if bounds is None or not value:
        return ""
    half = (bounds[1] - bounds[0]) / 2
    return f"± {100 * half / value:.2g}%"


def _spread(row: Row) -> str:
    if row.runs < 2 or not row.peak_range or not row.peak_bytes:
        return ""
    return f"from {memory(row.peak_range[0])}" if row.peak_range[1] > 1.01 * row.peak_range[0] else ""


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
