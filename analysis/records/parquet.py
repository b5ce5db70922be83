"""A table of records in one parquet file, and back."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.records.atomic import atomic_write

if TYPE_CHECKING:
    import pandas as pd

_JSON_COLUMNS = b"analysis.json_columns"


def write_parquet(frame: "pd.DataFrame", path: str | Path) -> None:
    """Write a table of `load` whole: the old file, or the new one, never a part.

    Columns of one kind of scalar are stored as such; others (lists, or mixed) as JSON text, and named in the file's
    metadata. Paths below the file's folder are stored relative to it, so that a sweep can be moved.

    Raises:
        OSError: the folder can't be written to, or the disk is full.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    folder = Path(path).parent
    arrays, as_json = {}, []
    for column in frame.columns:
        values = [None if _is_missing(value) else value for value in frame[column].tolist()]
        if column == "path":
            values = [_relative(value, folder) for value in values]
        array = _scalars(values)
        if array is None:
            as_json.append(column)
            array = pyarrow.array([None if value is None else json.dumps(value) for value in values], pyarrow.string())
        arrays[column] = array
    metadata = {_JSON_COLUMNS: json.dumps(as_json)}
    table = pyarrow.table(arrays).replace_schema_metadata(metadata)
    with atomic_write(path) as partial:
        write_table(table, partial)


def read_rows(content: bytes) -> list[dict[str, Any]]:
    """Return the flat records of a parquet file that `write_parquet` made, None where a record lacks the key.

    Raises:
        Exception: of pyarrow's many kinds, where the file is damaged; ValueError where it is another's.
    """
    import pyarrow
    from pyarrow.parquet import read_table

    table = read_table(pyarrow.BufferReader(content))
    metadata = table.schema.metadata or {}
    if _JSON_COLUMNS not in metadata:
        raise ValueError("it holds no records")
    as_json = set(json.loads(metadata[_JSON_COLUMNS]))
    rows = table.to_pylist()
    for row in rows:
        for column in as_json & row.keys():
            if row[column] is not None:
                row[column] = json.loads(row[column])
    return rows


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return the record that a flat one came from, without what is None and without its path."""
    record: dict[str, Any] = {}
    for key, value in flat.items():
        if value is None or key == "path":
            continue
        *levels, last = key.split(".")
        inner = record
        for level in levels:
            inner = inner.setdefault(level, {})
            if not isinstance(inner, dict):  # a key that has a dot of its own
                break
        else:
            inner[last] = value
    return record


def flattened(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a record's values by their keys, levels joined by dots; `nested` is the way back."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat |= flattened(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat


def _scalars(values: list[Any]) -> Any:
    """Return an array of one kind of scalar, or None where they are not of one."""
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    for kind in ({bool}, {int}, {int, float}, {str}):
        if kinds and kinds <= kind:
            try:
                numbers = pyarrow.float64() if float in kinds else None
                return pyarrow.array(values, numbers)
            except (OverflowError, TypeError, pyarrow.ArrowException):
                return None
    return None


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _relative(path: Any, folder: Path) -> Any:
    try:
        return str(Path(path).relative_to(folder))
    except (TypeError, ValueError):
        return path
