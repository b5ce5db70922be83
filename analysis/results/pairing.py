"""Match the rows of one sweep with those of another."""

from typing import Any

from analysis.results import format as figures
from analysis.results.pooling import Row, architecture, options

_MUST_EQUAL = {
    "schema": "schema",
    "data": "data.fingerprint",
    "weights": "weights.fingerprint",
    "architecture": "weights.architecture",
    "device": "environment.device_type",
    "limit of VRAM": "run.limits.vram_gb",
    "limit of host memory": "run.limits.host_gb",
}

_SHOWN = {
    "schema": lambda row: f"schema {row.get('schema')}",
    "data": lambda row: f"{figures.size(row)} ({str(row.get('data.fingerprint'))[:8]})",
    "weights": lambda row: f"{figures.weights(row)} ({str(row.get('weights.fingerprint'))[:8]})",
    "architecture": lambda row: f"the {architecture(row)} networks",
    "device": lambda row: str(row.get("environment.device_type")),
    "limit of VRAM": lambda row: str(row.get("run.limits.vram_gb", "none")),
    "limit of host memory": lambda row: str(row.get("run.limits.host_gb", "none")),
}


def match(row: Row, others: list[Row]) -> Row | None:
    """Return the row of the same variant on the same data, weights, limits and kind of device.

    One of the same environment is preferred; None where there is none.
    """
    alike = [other for other in others if same_variant(row, other) and not obstacles(row, other)]

    def closeness(other: Row) -> tuple[bool, bool]:
        return other["place"] == row["place"], other.get("variant.id") == row.get("variant.id")

    return max(alike, key=closeness, default=None)


def same_variant(one: Row, other: Row) -> bool:
    """Return whether ids are equal, or groups and the settings that both know (a new group changes the id)."""
    if one.get("variant.id") == other.get("variant.id"):
        return True
    mine, theirs = options(one), options(other)
    same_settings = all(mine[key] == theirs[key] for key in mine.keys() & theirs.keys())
    return one["variant.name"] == other["variant.name"] and same_settings


def obstacles(one: Row, other: Row) -> list[str]:
    """Return what makes two rows of a variant incomparable, in words: "schema", "data", "weights" and so on."""
    return [word for word, key in _MUST_EQUAL.items() if _value(one, key) != _value(other, key)]


def _value(row: Row, key: str) -> Any:
    return architecture(row) if key == "weights.architecture" else row.get(key)


def differences(old: list[Row], new: list[Row]) -> list[str]:
    """Return why no row of one is comparable with any of the other, a sentence each."""
    found = {}
    for before in old:
        for after in new:
            if same_variant(before, after):
                for word in obstacles(before, after):
                    shown = _SHOWN[word]
                    found[word] = f"other {word}: {shown(before)} before, {shown(after)} now"
            elif before["variant.name"] == after["variant.name"]:
                mine, theirs = options(before), options(after)
                for key in sorted(mine.keys() & theirs.keys()):
                    if mine[key] != theirs[key]:
                        found[key] = f"other settings: {key} is {mine[key]} before, {theirs[key]} now"
    return list(found.values()) or ["they have no variant in common"]
