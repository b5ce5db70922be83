"""The head of a report: what was run, what to know first, and the findings of each setting in a line."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.records.evaluation import Evaluation
from analysis.report import findings
from analysis.results import evaluation_table
from analysis.results import format as figures
from analysis.results.rows import Row, fastest

if TYPE_CHECKING:
    import pandas as pd


def facts(frame: "pd.DataFrame", rows: list[Row]) -> list[str]:
    """Return what all runs have in common, and when they were made, in a few words each."""
    ran = sum(row.status == "ok" for row in rows)
    parts = [f"{len(rows)} variants, {ran} ran" if ran < len(rows) else f"{len(rows)} variants"]
    for column, form in (
        ("environment.device", "{}"),
        ("environment.torch", "torch {}"),
        ("weights.source", "{} weights"),
        ("data.name", "{}"),
    ):
        values = _values(frame, column)
        if len(values) == 1:
            parts.append(form.format(values[0]))
        elif values:
            parts.append(
                f"{len(values)} {column.split('.')[1].replace('torch', 'torch version').replace('name', 'clip')}s"
            )
    sizes = {(row.frames, row.height, row.width) for row in rows if row.frames}
    if len(sizes) == 1:
        count, height, width = (int(value or 0) for value in sizes.pop())
        parts.append(f"{count} frames of {width}x{height}")
    days = sorted({value[:10] for value in _values(frame, "run.started")})
    if days:
        parts.append(days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}")
    return parts


def _values(frame: "pd.DataFrame", column: str) -> list[str]:
    return sorted({str(value) for value in frame[column].dropna()}) if column in frame.columns else []


def notices(frame: "pd.DataFrame", rows: list[Row], evaluations: Sequence[Evaluation] = ()) -> list[dict[str, Any]]:
    """Return what must be known before anything else: `kind`, `head`, `text` and `commands` of each notice."""
    found = _doubtful([row for row in rows if row.ok])
    sources = [row.weights_source for row in rows] + [one.weights.get("source") for one in evaluations]
    if "seeded" in sources:
        some = "" if all(source in ("seeded", None) for source in sources) else "Some of the runs are concerned. "
        found.append({"kind": "seeded", "head": "Seeded weights.", "text": some + findings.SEEDED, "commands": []})
    narrow = [row.architecture != "published" for row in rows] + [evaluation_table.small(one) for one in evaluations]
    if any(narrow):
        some = "" if all(narrow) else "Some of the runs are concerned. "
        trained = findings.TRAINED_SMALL if ("small", True) in zip(sources, narrow, strict=True) else ""
        text = some + findings.SMALL + trained
        found.append({"kind": "small", "head": "Small networks.", "text": text, "commands": []})
    left_out = frame.attrs.get("left_out") or []
    if left_out:
        files = "One file was" if len(left_out) == 1 else f"{len(left_out)} files were"
        found.append({"kind": "", "head": f"{files} left out.", "text": "; ".join(left_out[:5]), "commands": []})
    return found


def _doubtful(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the notice on rows whose own times or pairs are doubtful, published first; none where all are sound."""
    doubtful = sorted((row for row in rows if row.again), key=lambda row: not row.published)
    if not doubtful:
        return []
    if len(doubtful) < len(rows):
        head = f"{len(doubtful)} of {len(rows)} variants {'is' if len(doubtful) == 1 else 'are'} doubtful."
    else:
        disturbed = all(row.disturbed for row in rows)
        head = "Every variant was disturbed." if disturbed else "No variant has a sound time."
    shown = doubtful[: figures.MOST_DOUBTS]
    text = str(doubtful[0].own_doubt)
    if len(doubtful) > 1:
        more = f" and {len(doubtful) - len(shown)} more" if len(doubtful) > len(shown) else ""
        text += f"; doubtful too: {'; '.join(row.label for row in shown[1:])}{more}, as the table says"
    text += ". No finding rests on such a time. Measure again on a quiet machine, then make this report again:"
    return [{"kind": "doubt", "head": head, "text": text, "commands": [row.again for row in shown]}]


def lead(rows: list[Row], several: bool) -> list[str]:
    """Return what to know of the findings: of which setting they are, and what is missing."""
    ran = [row for row in rows if row.ok]
    if not ran:
        return ["No variant was measured: the table says why of each."]
    lines = []
    if several:
        lines.append(f"These are of the setting in which most variants ran: {rows[0].setting}.")
    if not any(row.published for row in ran):
        lines.append("The published variant is not among those that ran, so there is no speedup over it to give.")
    return lines


def line(rows: list[Row]) -> dict[str, str]:
    """Return the findings of one setting in a line."""
    ok = [row for row in rows if row.ok]
    if not ok:
        return {"setting": rows[0].setting, "fastest": "none ran", "smallest": "", "best": ""}
    small, near = findings.smallest(ok), findings.within_bound(ok)
    return {
        "setting": rows[0].setting,
        "fastest": _quickest(ok),
        "smallest": f"{small.name}: {figures.memory(small.peak_bytes)}" if small else "",
        "best": _quickest(near) if near else "none",
    }


def _quickest(rows: list[Row]) -> str:
    row = fastest(rows)
    if row is None:
        return f"not known: {findings.nothing_sound(rows)}"
    return row.name if row.sound_latency_s is None else f"{row.name}: {figures.seconds(row.sound_latency_s)}"
