"""`record.schema.json` and a check against it: the part of JSON Schema that it uses, fast enough for every load."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("record.schema.json")

_TYPES = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63,
    "integer": lambda value: _TYPES["number"](value) and value == int(value),
}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a record."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def validation_error(value: Any, part: str | None = None) -> str | None:
    """What is wrong with a record, or with a value by one of the schema's `$defs`, in words; None where nothing is."""
    return _fault(value, schema()["$defs"][part] if part else schema(), "")


def _fault(value: Any, rule: dict[str, Any], key: str) -> str | None:
    if "$ref" in rule:
        rule = schema()["$defs"][rule["$ref"].rsplit("/", 1)[1]]
    name = key or "the file"
    if "enum" in rule and (isinstance(value, (dict, list, bool)) or value not in rule["enum"]):
        return f"{name} is {_shown(value)}, not one of {', '.join(_shown(item) for item in rule['enum'])}"
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_TYPES[kind](value) for kind in types):
        return f"{name} is {_shown(value)}, not of type {' or '.join(types)}"
    if isinstance(value, dict):
        return _fault_inside(value, rule, key)
    if isinstance(value, list):
        count = len(value)
        if not rule.get("minItems", 0) <= count <= rule.get("maxItems", count):
            return f"{name} has {count} entries, not {rule['minItems']}"
        faults = (_fault(item, rule.get("items", {}), f"{key}[{number}]") for number, item in enumerate(value))
        return next(filter(None, faults), None)
    return None


def _fault_inside(value: dict[str, Any], rule: dict[str, Any], key: str) -> str | None:
    for name in rule.get("required", []):
        if name not in value:
            return f"it has no {key + '.' if key else ''}{name}"
    known, others = rule.get("properties", {}), rule.get("additionalProperties", {})
    for name, item in value.items():
        found = _fault(item, known.get(name, others), f"{key}.{name}" if key else name)
        if found:
            return found
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
