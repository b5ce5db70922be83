"""Check a record against `record.schema.json`."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("record.schema.json")


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def validation_error(value: Any, part: str | None = None) -> str | None:
    """Return what is wrong with a record, or with a value by one of the schema's `$defs`, in words; None if nothing."""
    import fastjsonschema

    try:
        _validator(part)(value)
    except fastjsonschema.JsonSchemaValueException as error:
        return _in_words(error)
    return None


@cache
def _validator(part: str | None) -> Callable[[Any], Any]:
    import fastjsonschema

    rules = schema() if part is None else {**schema()["$defs"][part], "$defs": schema()["$defs"]}
    return fastjsonschema.compile(rules, use_default=False)


def _in_words(error: Any) -> str:
    """Return a fault as key, what was got and what was expected; keys without fastjsonschema's "data" before them."""
    key = error.name.removeprefix("data").removeprefix(".")
    name, shown, wanted = key or "the file", _shown(error.value), error.rule_definition
    match error.rule:
        case "required":
            missing = next(item for item in wanted if item not in error.value)
            return f"it has no {key + '.' if key else ''}{missing}"
        case "enum":
            return f"{name} is {shown}, not one of {', '.join(_shown(item) for item in wanted)}"
        case "type":
            return f"{name} is {shown}, not of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
        case "minItems" | "maxItems":
            return f"{name} has {len(error.value)} entries, not {wanted}"
        case _:
            return f"{name} is {shown}, out of range"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
