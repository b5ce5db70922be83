"""What ran otherwise than asked for, by the variants' reports in a record."""

from collections.abc import Iterator
from typing import Any

_FAILED = ("torch, since ", "eager")
"""How a variant's report of a kernel, a graph or a component begins that torch's eager operations replaced."""


def fell_back(effective: dict[str, Any]) -> list[str]:
    """Return a line for each step of `fallback=ladder`, and for each kernel, graph or component that torch replaced."""
    steps = [f"{step['stage']}, {step['step']}" for step in effective.get("fallbacks", [])]
    return [f"fell back: {what}" for what in steps + [f"{where}, {why}" for where, why in _failures(effective)]]


def _failures(effective: dict[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Yield where something runs otherwise than asked for, and the variant's words on it."""
    for key, value in effective.items():
        if isinstance(value, dict):
            yield from _failures(value, f"{within}{key}.")
        elif isinstance(value, str) and value.startswith(_FAILED):
            yield f"{within}{key}", value
