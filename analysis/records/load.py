"""Records from disk as a table."""

import io
import json
import logging
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import InputError
from analysis.records import evaluation, parquet, schema, training
from analysis.records.evaluation import Evaluation
from analysis.records.parquet import flattened, write_parquet

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load", "load_evaluations", "load_micro", "load_some", "load_with_evaluations", "write_parquet"]

log = logging.getLogger(__name__)

OTHER_KINDS = ("micro", "train_benchmark", evaluation.KIND)
"""Kinds of documents that lie beside records: `load_micro` and `load_evaluations` read them."""

TARS = (".tar", ".tar.gz", ".tgz")

File = tuple[str, Callable[[], bytes]]
"""A file's name, and what reads it."""


def load(*paths: str | Path) -> "pd.DataFrame":
    """Return all records of run folders, sweep folders, record files, parquet files or tars of them, one row each.

    Columns are the record's keys joined by dots (`status`, `variant.attention`, `latency.median_s`,
    `stages.flow.peak_bytes`, ...; `record.schema.json` describes them, with units), and `path`, the file.
    Lists stay lists. A column is there where any record has that key; what a record lacks is None or NaN.

    A sweep's records.parquet holds the same records as its run folders: it is read for those whose record.json is
    missing. A tar is read where it is given by name. A file that is given twice counts once. Schemas 1 and 2 are read.
    What is damaged, of another schema or no record at all is named in a warning and left out;
    `frame.attrs["left_out"]` has these sentences.

    Raises:
        FileNotFoundError: a path that does not exist.
    """
    import pandas as pd

    left_out: list[str] = []
    rows = list(_rows(paths, left_out))
    for sentence in left_out:
        log.warning("%s", sentence)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    frame = pd.DataFrame([[row.get(column) for column in columns] for row in rows], columns=columns)
    frame.attrs["left_out"] = left_out
    return frame


def load_some(*paths: str | Path) -> "pd.DataFrame":
    """Load records for a command line, as `load` does.

    Raises:
        InputError: a path that does not exist, or no record in any.
    """
    try:
        frame = load(*paths)
    except FileNotFoundError as error:
        raise InputError(f"{error}.") from None
    if frame.empty:
        raise InputError(
            f"there is no record in {', '.join(map(str, paths))}; give sweep folders, run folders, record.json files, "
            "records.parquet or a tar of them."
        )
    return frame


def load_micro(*paths: str | Path) -> "pd.DataFrame":
    """Return all rows of the `micro.json` and `train_benchmark.json` files in folders, or of such files themselves.

    Columns: `group`, `option`, `dtype`, `pass`, `median_s`, `ratio.median`, `ratio.ci95` (its time over that of
    the first option of its group: under 1 is faster), `peak_bytes`, `status`, `reason`, what else a row has,
    `environment.*`, `size` (the run whose shapes were taken), `disturbed`, and `path`. Other files are passed over;
    damaged ones are named in a warning and left out.

    Raises:
        FileNotFoundError: a path that does not exist.
    """
    import pandas as pd

    rows = []
    for name, read in _unique(paths):
        if Path(name).suffix != ".json" or Path(name).name == "record.json":
            continue
        try:
            content = _parse(read())
            kind = content.get("kind") if isinstance(content, dict) else None
            if kind not in ("micro", "train_benchmark"):
                continue
            environment = flattened({"environment": content.get("environment") or {}})
            of_training = kind == "train_benchmark"
            found = list(training.as_micro_rows(content)) if of_training else content["rows"]
            size = training.size(content) if of_training else content.get("size")
            for row in found:
                if wrong := schema.validation_error(row, "micro_row"):
                    raise ValueError(wrong)
            common = {**environment, "size": size, "disturbed": content.get("disturbed"), "path": name}
            rows += [flattened(row) | common for row in found]
        except (*_DAMAGE, AttributeError, KeyError, TypeError) as error:
            log.warning("%s is left out: %s", name, _why(error))
    return pd.DataFrame(rows)


def load_evaluations(*paths: str | Path) -> list[Evaluation]:
    """Return what the `evaluation.json` files in folders and tars hold, or such files themselves, in their order.

    Other files are passed over; a damaged one is named in a warning and left out.

    Raises:
        FileNotFoundError: a path that does not exist.
    """
    left_out: list[str] = []
    found = list(_evaluations(paths, left_out))
    for sentence in left_out:
        log.warning("%s", sentence)
    return found


def load_with_evaluations(*paths: str | Path) -> tuple["pd.DataFrame", list[Evaluation]]:
    """Load records and evaluations for a command line, as `load` and `load_evaluations` do.

    The table's `attrs["left_out"]` has the sentences on damaged evaluations too.

    Raises:
        InputError: a path that does not exist, or neither a record nor an evaluation in any.
    """
    left_out: list[str] = []
    try:
        found = load(*paths)
        evaluations = list(_evaluations(paths, left_out))
    except FileNotFoundError as error:
        raise InputError(f"{error}.") from None
    for sentence in left_out:
        log.warning("%s", sentence)
    found.attrs["left_out"] = [*found.attrs["left_out"], *left_out]
    if found.empty and not evaluations:
        raise InputError(
            f"there is no record and no evaluation in {', '.join(map(str, paths))}; give sweep folders, run folders, "
            "record.json or evaluation.json files, records.parquet or a tar of them."
        )
    return found, evaluations


_DAMAGE = (OSError, ValueError, RecursionError, EOFError, tarfile.TarError, zlib.error)


def _evaluations(paths: tuple[str | Path, ...], left_out: list[str]) -> Iterator[Evaluation]:
    """Yield evaluations; what is wrong with a damaged one goes to `left_out`, a sentence each."""
    given = {str(Path(path)) for path in paths}
    for name, read in _unique(paths):
        named = Path(name).name == "evaluation.json"
        if Path(name).suffix != ".json" or Path(name).name == "record.json" or not (named or name in given):
            continue
        try:
            content = _parse(read())
            of_kind = isinstance(content, dict) and content.get("kind") == evaluation.KIND
            if of_kind:
                yield evaluation.from_document(content, name)
        except _DAMAGE as error:
            of_kind = named or not isinstance(error, _UNREADABLE)
            reason = f"it can't be read as JSON ({_why(error)})" if isinstance(error, _UNREADABLE) else _why(error)
            left_out += [f"{name} is left out: {reason}"] if of_kind else []
        else:
            left_out += [f"{name} is left out: it is no evaluation"] if named and not of_kind else []


_UNREADABLE = (OSError, json.JSONDecodeError, UnicodeError, RecursionError, EOFError, tarfile.TarError, zlib.error)


def _rows(paths: tuple[str | Path, ...], left_out: list[str]) -> Iterator[dict[str, Any]]:
    """Yield flat records, those of record.json files before those of parquet files."""
    known: set[tuple[str, Any]] = set()
    folders_with_json: set[str] = set()
    tables = []
    given = {str(Path(path)) for path in paths}
    for name, read in _unique(paths, left_out):
        if name.endswith(".parquet"):
            tables.append((name, read))
        elif Path(name).name == "record.json" or name in given:
            row = _checked(name, left_out, read)
            if row is None:
                continue
            for folder in map(str, Path(name).parents):
                folders_with_json.add(folder)
                known.add((folder, row.get("run.id")))
            yield row
    for name, read in tables:
        folder = str(Path(name).parent)
        try:
            flat_rows = parquet.read_rows(read())
        except Exception as error:  # pyarrow raises errors of many kinds on damage
            left_out.append(f"{name} is left out: it can't be read as parquet ({_why(error)})")
            continue
        for number, flat in enumerate(flat_rows):
            run = flat.get("run.id")
            if folder in folders_with_json if run is None else (folder, run) in known:
                continue
            where = flat.get("path")
            where = str(Path(folder, where)) if isinstance(where, str) else f"{name}[{number}]"
            wrong = schema.validation_error(parquet.nested(flat))
            if wrong:
                left_out.append(f"{where} is left out: {wrong}")
            else:
                yield {**flat, "path": where}


def _checked(name: str, left_out: list[str], read: Callable[[], bytes]) -> dict[str, Any] | None:
    """Return the flat record, or None, and the reason in `left_out`."""
    try:
        record = _parse(read())
        if isinstance(record, dict) and record.get("kind") in OTHER_KINDS:
            return None
        wrong = schema.validation_error(record) if isinstance(record, dict) else "it is no record"
        if wrong is None:
            return {**flattened(record), "path": name}
    except _DAMAGE as error:
        wrong = f"it can't be read as JSON ({_why(error)})"
    left_out.append(f"{name} is left out: {wrong}")
    return None


def _parse(content: bytes) -> Any:
    text = content.decode("utf-8")
    value = json.loads(text, parse_constant=lambda constant: None)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # halves of surrogate pairs are no text
    return value


def _unique(paths: tuple[str | Path, ...], left_out: list[str] | None = None) -> Iterator[File]:
    seen = set()
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give run folders, sweep folders or record files")
        for name, read in _files(path, [] if left_out is None else left_out):
            where = Path(name).resolve()
            if where not in seen:
                seen.add(where)
                yield name, read


def _files(path: Path, left_out: list[str]) -> Iterator[File]:
    if path.is_dir():
        wanted = (".json", ".parquet")
        for file in sorted(path.rglob("*"), key=_natural):
            if file.suffix in wanted and not file.name.startswith("."):
                yield str(file), file.read_bytes
    elif path.name.endswith(TARS):
        yield from _members(path, left_out)
    else:
        yield str(path), path.read_bytes


def _members(path: Path, left_out: list[str]) -> list[File]:
    """Return the JSON and parquet files of a tar, under the tar's name."""
    found: list[File] = []
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name.endswith((".json", ".parquet")) else None
                if content is not None:  # a file's, not a folder's
                    found.append((str(path / member.name), io.BytesIO(content.read()).getvalue))
    except _DAMAGE as error:
        left_out.append(f"{path} is left out: it can't be read as a tar ({_why(error)})")
    return sorted(found, key=lambda file: _natural(Path(file[0])))


def _natural(path: Path) -> list[list[tuple[bool, int | str]]]:
    """Return a key that sorts 10 after 9."""
    parts = (re.split(r"(\d+)", part) for part in path.parts)
    return [[(not p.isdecimal(), int(p) if p.isdecimal() else p) for p in part] for part in parts]


def _why(error: BaseException) -> str:
    return str(error).split("\n")[0] or type(error).__name__
