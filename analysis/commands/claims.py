"""`python -m analysis claims`: the promises of docs/plan.md, each with a verdict by what was measured."""

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.commands.claim_checks import (
    CONFIRMED,
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_MEASURED,
    PARTLY,
    QUALITY,
    Measured,
    measure,
)
from analysis.commands.table import markdown
from analysis.errors import InputError
from analysis.records.atomic import print_or_write
from analysis.records.evaluation import Evaluation
from analysis.records.load import load, load_evaluations, load_micro
from analysis.results.format import distinct_doubts
from analysis.results.pooling import Row, architecture, rows_of, variants_table
from analysis.results.soundness import typed
from analysis.results.truth import rows_of_evaluation

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).with_name("claims.yaml")

LEARNED = ("pretrained", "small")
"""Sources of weights that were learned, so that what they paint has a meaning."""

VERDICTS = (CONFIRMED, PARTLY, CONTRADICTED, INCONCLUSIVE, NOT_MEASURED)


def read_claims(path: str | Path | None = None) -> list[dict[str, Any]]:
    """Return the claims of a YAML file, which must not be changed; `claims.yaml` describes its keys."""
    return _parsed(Path(path or FILE).read_text(encoding="utf-8"))


@cache
def _parsed(text: str) -> list[dict[str, Any]]:
    import yaml

    return yaml.safe_load(text)["claims"]


def entries(device_type: str | None = None, path: str | Path | None = None) -> list[dict[str, Any]]:
    """Return the runs that the claims need, each once, in the claims' order: {name, overrides, seconds}.

    Args:
        device_type: "cpu" or "cuda"; None gives the runs of both, those for CUDA first.
    """
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    for kind in [device_type] if device_type else ["cuda", "cpu"]:
        for claim in read_claims(path):
            for run in claim.get("runs", {}).get(kind, []):
                entry = {"name": f"{claim['id']}_{len(made)}", "overrides": list(run["overrides"])}
                made.setdefault(tuple(run["overrides"]), entry | {"seconds": run["seconds"]})
    return list(made.values())


def runs(path: str | Path | None = None, device_type: str | None = None) -> list[list[str]]:
    """Return the overrides of `entries`: what `python run.py` is to be given, a list for each run."""
    return [entry["overrides"] for entry in entries(device_type, path)]


def evaluate(
    frame: "pd.DataFrame",
    micro: "pd.DataFrame | None" = None,
    path: str | Path | None = None,
    evaluations: Sequence[Evaluation] = (),
) -> list[dict[str, Any]]:
    """Return a verdict for each claim.

    Args:
        frame: of `load`, or of `variants_table`.
        micro: of `load_micro`.
        path: another file of claims.
        evaluations: of `load_evaluations`. A figure against the truth is taken from those that have it, and then not
            from single clips.

    Returns:
        A dictionary a claim: `id`, `claim`, `verdict` (one of `VERDICTS`), `remark` (a sentence, or ""), `measured`
        (dictionaries with the fields of `analysis.commands.claim_checks.Measured`), `commands` (what would measure it).
    """
    pooled = frame if "processes" in frame.columns else variants_table(frame)
    rows = rows_of(pooled)
    micro_rows = [] if micro is None else rows_of(micro)
    evaluated = [row for evaluation in evaluations for row in rows_of_evaluation(evaluation)]
    return [_evaluate(claim, rows, micro_rows, evaluated) for claim in read_claims(path)]


def combine(verdicts: Iterable[str | None]) -> str:
    """Return one verdict of several; None is what was not measured.

    Confirmed or contradicted where all are; partly where some of it holds and some does not, or was not measured.
    """
    found = list(verdicts)
    measured = {verdict for verdict in found if verdict not in (None, NOT_MEASURED)}
    if not measured:
        return NOT_MEASURED
    if measured == {CONFIRMED}:
        return CONFIRMED if all(verdict == CONFIRMED for verdict in found) else PARTLY
    if len(measured) == 1:
        return measured.pop()
    return INCONCLUSIVE if measured <= {CONFIRMED, INCONCLUSIVE} else PARTLY


def to_markdown(verdicts: Sequence[dict[str, Any]]) -> str:
    """Return the verdicts of `evaluate` as a table, their figures as a list, and what would measure the rest."""
    counts = Counter(verdict["verdict"] for verdict in verdicts)
    lines = [", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]) + ".", ""]
    table = [[v["id"], v["claim"], v["verdict"], _measured_shortly(v)] for v in verdicts]
    lines.append(markdown(["id", "claim", "verdict", "measured"], table))
    for verdict in sorted(verdicts, key=lambda one: one["verdict"] == NOT_MEASURED):
        lines += [f"### {verdict['id']}: {verdict['verdict']}", "", *map(_line, verdict["measured"])]
        lines += [""] if verdict["measured"] else []
        lines += [verdict["remark"], ""] if verdict["remark"] else []
        if verdict["verdict"] == NOT_MEASURED and verdict["commands"]:
            lines += ["What would measure it:", "", "```", *verdict["commands"], "```", ""]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="sweep folders, record files, micro.json")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a file instead of the screen")


def main(arguments: argparse.Namespace) -> int:
    """Print or write the verdicts as Markdown; 0."""
    try:
        frame, micro = load(*arguments.paths), load_micro(*arguments.paths)
        evaluations = load_evaluations(*arguments.paths)
    except FileNotFoundError as error:
        raise InputError(f"{error}.") from None
    if frame.empty and micro.empty and not evaluations:
        given = ", ".join(map(str, arguments.paths))
        raise InputError(
            f"there is no record, no micro.json and no evaluation.json in {given}; give sweep folders or such files."
        )
    text = to_markdown(evaluate(frame, micro, evaluations=evaluations))
    print_or_write(text, arguments.output)
    return 0


def _evaluate(claim: dict[str, Any], rows: list[Row], micro: list[Row], evaluated: list[Row]) -> dict[str, Any]:
    published = [row for row in rows if architecture(row) == "published"]
    learned = _learned(rows)
    found = [
        (part, measure(part, _usable(claim, part, published, learned), micro, _learned(evaluated)))
        for part in claim["parts"]
    ]
    judged = [(part, ms) for part, ms in found if not part.get("context")]
    verdict = combine(combine(m.verdict for m in measured) for _, measured in judged)
    remarks = []
    if claim.get("unavailable"):
        remarks.append(f"It can't be measured: {claim['unavailable']}.")
    if claim.get("quality") and len(learned) + len(_learned(evaluated)) < len(rows) + len(evaluated):
        remarks.append("Runs with seeded weights are left out: they show numerical agreement, not visual quality.")
    if len(published) < len(rows) and not claim.get("quality"):
        remarks.append(
            "Runs of the small networks are left out: they are narrower than ProPainter's published ones, which the "
            "claim is about."
        )
    lacking = [part["what"] for part, measured in judged if not measured]
    if lacking and verdict != NOT_MEASURED:
        remarks.append(f"Not measured: {'; '.join(lacking)}.")
    if any(_exceeds(part, m) for part, measured in judged for m in measured):
        remarks.append("Some figures are better than promised.")
    doubts, more = distinct_doubts((m.doubt, m.data, m.again) for _, measured in found for m in measured if m.doubt)
    for doubt, again in doubts:
        remarks.append(
            f"Not judged, since {doubt}." + (f" To measure it again on a quiet machine: {again}" if again else "")
        )
    remarks += [f"More doubtful figures: {more}."] if more else []
    overrides = [run["overrides"] for kind in ("cpu", "cuda") for run in claim.get("runs", {}).get(kind, [])]
    return {
        "id": claim["id"],
        "claim": claim["claim"],
        "verdict": verdict,
        "remark": " ".join(remarks),
        "measured": [asdict(m) for _, measured in found for m in measured],
        "commands": list(dict.fromkeys(typed(shlex.join(["python", "run.py", *run])) for run in overrides)),
    }


def _learned(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.get("weights.source") in LEARNED]


def _usable(claim: dict[str, Any], part: dict[str, Any], published: list[Row], learned: list[Row]) -> list[Row]:
    """Return the rows that may answer a part: published widths, and of visual quality all weights that were learned."""
    if not claim.get("quality"):
        return published
    quality = part["figure"] in QUALITY
    return [row for row in learned if quality or architecture(row) == "published"]


def _exceeds(part: dict[str, Any], measured: Measured) -> bool:
    most = (part.get("promise") or [None, None])[1]
    return most is not None and measured.interval is not None and measured.doubt is None and measured.interval[0] > most


def _measured_shortly(verdict: dict[str, Any]) -> str:
    judged = [measured for measured in verdict["measured"] if measured["verdict"]]
    if not judged:
        return "see below for what would" if verdict["commands"] else verdict["remark"]
    sound = [measured for measured in judged if not measured["doubt"]]
    more = f", and {len(judged) - 1} more" if len(judged) > 1 else ""
    return (sound[0]["text"] if sound else "doubtful, see below") + more


def _line(measured: dict[str, Any]) -> str:
    against = f" against {measured['baseline']}" if measured["baseline"] else ""
    verdict = measured["verdict"] or "for comparison"
    doubtful = " (doubtful)" if measured["doubt"] else ""
    where = f"{measured['data']}; {measured['device']}"
    return f"- {measured['what']}: {measured['text']}, {verdict}{doubtful}. {measured['variant']}{against}; {where}."
