"""Records from disk as a table."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

log = logging.getLogger(__name__)

SCHEMAS = (1,)
"""The record schemas that can be read."""


def load(*paths: str | Path) -> pd.DataFrame:
    """All records of run folders, sweep folders or record files, one row each.

    Columns are the record's keys joined by dots (`status`, `variant.attention`, `latency.median_s`,
    `stages.flow.peak_bytes`, ...; see README), and `path`, the file. What is damaged or no record is named in a
    warning and left out.

    Raises:
        FileNotFoundError: a path that does not exist.
    """
    rows = [{"path": str(file), **_flat(record)} for file, record in _records(paths)]
    return pd.DataFrame(rows)


def _records(paths: tuple[str | Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give run folders, sweep folders or record files")
        for file in sorted(path.rglob("record.json")) if path.is_dir() else [path]:
            try:
                record = json.loads(file.read_text())
            except (OSError, ValueError) as error:
                log.warning("%s is left out: it can't be read as JSON (%s)", file, error)
                continue
            if not isinstance(record, dict) or record.get("schema") not in SCHEMAS:
                log.warning("%s is left out: it is no record of schema %s", file, SCHEMAS)
                continue
            yield file, record


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat
