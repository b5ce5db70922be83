"""What a check found, as text, Markdown, JSON or JUnit's XML."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from xml.etree import ElementTree

from analysis.commands.check_result import FINE, NOT_COMPARABLE, REGRESSION, Outcome
from analysis.commands.table import markdown

VERDICTS = {FINE: "fine", REGRESSION: "regression", NOT_COMPARABLE: "not comparable"}

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def as_text(outcome: Outcome) -> str:
    """Return text for a terminal."""
    lines = [_headline(outcome)]
    lines += [f"  {why}" for why in outcome.not_comparable]
    lines += [f"  {f.variant}: {f.figure}: {f.before} -> {f.after}: {f.why}" for f in outcome.regressions]
    lines += [f"note: {note}" for note in outcome.notes]
    return "\n".join(lines) + "\n"


def as_markdown(outcome: Outcome) -> str:
    """Return Markdown for a comment or a job's summary."""
    lines = [f"**{_headline(outcome)}**", ""]
    if outcome.regressions:
        cells = [[f.variant, f.figure, f.before, f.after, f.why] for f in outcome.regressions]
        lines.append(markdown(["variant", "figure", "before", "after", "why"], cells))
    lines += [f"- {line}" for line in (*outcome.not_comparable, *outcome.notes)]
    return "\n".join(lines).rstrip() + "\n"


def as_json(outcome: Outcome) -> str:
    """Return JSON for programs: verdict, exit_code, regressions, not_comparable, compared, notes."""
    content = {"verdict": VERDICTS[outcome.code], "exit_code": outcome.code, **asdict(outcome)}
    return json.dumps(content, indent=2) + "\n"


def as_junit(outcome: Outcome) -> str:
    """Return XML for CI servers: a test case for the reference and for each variant."""
    found: dict[str, list[str]] = {variant: [] for variant in outcome.compared}
    for f in outcome.regressions:
        found.setdefault(f.variant, []).append(f"{f.figure}: {f.before} -> {f.after}: {f.why}")
    failures = sum(map(bool, found.values()))
    errors = len(outcome.not_comparable)
    suite = ElementTree.Element(
        "testsuite",
        name="propainter-bench check",
        tests=str(len(found) + errors),
        failures=str(failures),
        errors=str(errors),
    )
    for variant, sentences in found.items():
        case = ElementTree.SubElement(suite, "testcase", classname="check", name=variant)
        if sentences:
            ElementTree.SubElement(case, "failure", message=sentences[0]).text = "\n".join(sentences)
    for number, why in enumerate(outcome.not_comparable, 1):
        case = ElementTree.SubElement(suite, "testcase", classname="check", name=f"not comparable {number}")
        ElementTree.SubElement(case, "error", message=why)
    if outcome.notes:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(outcome.notes)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _NOT_XML.sub("?", text) + "\n"


FORMATS: dict[str, Callable[[Outcome], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
    "junit": as_junit,
}


def _headline(outcome: Outcome) -> str:
    verdict = VERDICTS[outcome.code]
    if outcome.code == NOT_COMPARABLE:
        return f"{verdict}:"
    variants = [label for label in outcome.compared if label != "reference"]
    timed = sum("latency" in outcome.compared[label] for label in variants)
    seen = f"{len(variants)} variants compared, performance of {timed}"
    if outcome.code == FINE:
        return f"{verdict}: {seen}"
    worse = len({finding.variant for finding in outcome.regressions})
    return f"{verdict} in {worse} of them ({seen}):" if worse > 1 else f"{verdict} ({seen}):"
