"""From a table of records to the rows of a report."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from analysis.results import format as figures
from analysis.results import pooling
from analysis.results.rows import Row

if TYPE_CHECKING:
    import pandas as pd

Flat = dict[str, Any]


def rows_of(frame: "pd.DataFrame", table: "pd.DataFrame | None" = None) -> list[Row]:
    """Return one row for each variant, on each clip, device, set of weights, schedule and limit that it ran with.

    Args:
        frame: of `load`.
        table: its `variants_table`, where that is there already.
    """
    pooled = pooling.rows_of(pooling.variants_table(frame) if table is None else table)
    return [
        _row(flat, setting, changes)
        for flat, setting, changes in zip(pooled, _settings(pooled), _changes(pooled), strict=True)
    ]


def _row(flat: Flat, setting: str, changes: dict[str, str]) -> Row:
    baseline = pooling.name(flat.get("speedup.baseline")) if "speedup.median" in flat else None
    elsewhere = None
    if baseline != "published" or flat["variant.name"] == "published":  # no speedup over the published variant
        if baseline not in (None, flat["variant.name"]):
            elsewhere = (flat["speedup.median"], baseline)
        flat = {key: value for key, value in flat.items() if not key.startswith(("speedup.", "doubt.speedup"))}
    choices = {group: _choice(flat, group, changes) for group in _groups(flat)}
    return Row(flat, changes, choices, setting, elsewhere)


def _groups(flat: Flat) -> list[str]:
    """Return the groups that make the variant; the schedule is part of the setting."""
    keys = (key.removeprefix("variant.") for key in flat if key.startswith("variant."))
    return [key for key in keys if "." not in key and key not in ("id", "name", "label", "schedule", "options")]


def _changed(flat: Flat) -> dict[str, str]:
    pieces = (piece.partition("=") for piece in flat["variant.name"].split(","))
    return {group: option for group, equals, option in pieces if equals and group != "schedule"}


def _changes(table: list[Flat]) -> list[dict[str, str]]:
    """Return what differs from published in each row, by group, with the settings in which its options differ."""
    by_option = defaultdict(list)
    for flat in table:
        for group in _groups(flat):
            by_option[group, flat[f"variant.{group}"]].append(pooling.options(flat, f"{group}."))
    telling = {}
    for choice, found in by_option.items():
        keys = sorted({key for settings in found for key in settings})
        telling[choice] = [key for key in keys if len({str(settings.get(key)) for settings in found}) > 1]
    changes = []
    for flat in table:
        mine = {}
        for group, option in _changed(flat).items():
            keys = telling.get((group, option), [])
            shown = [f"{key.split('.', 1)[1]}={pooling.plain(flat.get(f'variant.options.{key}'))}" for key in keys]
            mine[group] = f"{group}={option}" + (f" ({' '.join(shown)})" if shown else "")
        changes.append(mine)
    return changes


def _choice(flat: Flat, group: str, changes: dict[str, str]) -> str:
    return changes[group].split("=", 1)[1] if group in changes else str(flat[f"variant.{group}"])


def _settings(table: list[Flat]) -> list[str]:
    """Return in what the rows' clips, devices, weights, schedules and limits differ; empty where all are alike."""
    facts = [
        {
            "clip": flat.get("data.name") or "",
            "size": _size(flat),
            "device": flat.get("environment.device") or "",
            "torch": f"torch {flat['environment.torch']}" if flat.get("environment.torch") else "",
            "weights": figures.weights(flat) if flat.get("weights.source") else "",
            "schedule": _schedule(flat),
            "limits": " ".join(f"{key}={pooling.plain(value)}" for key, value in pooling.limits(flat).items()),
        }
        for flat in table
    ]
    differing = [key for key in (facts[0] if facts else ()) if len({fact[key] for fact in facts}) > 1]
    texts = [", ".join(fact[key] for key in differing if fact[key]) for fact in facts]
    return _distinguished(table, texts)


def _distinguished(table: list[Flat], texts: list[str]) -> list[str]:
    """Add fingerprints where the words of two settings are the same."""
    keys = ("data.fingerprint", "place", "weights.fingerprint")
    found = defaultdict(set)
    for flat, text in zip(table, texts, strict=True):
        found[text].add(tuple(flat.get(key) for key in keys))
    result = []
    for flat, text in zip(table, texts, strict=True):
        alike = found[text]
        more = [str(flat.get(key))[:8] for place, key in enumerate(keys) if len({one[place] for one in alike}) > 1]
        result.append(", ".join([text, *more] if text else more))
    return result


def _schedule(flat: Flat) -> str:
    settings = pooling.options(flat, "schedule.").items()
    return " ".join(f"{key.removeprefix('schedule.')}={pooling.plain(value)}" for key, value in settings)


def _size(flat: Flat) -> str:
    if flat.get("data.frames") is None:
        return ""
    return figures.size({**flat, "data.name": ""}).removeprefix(", ")
