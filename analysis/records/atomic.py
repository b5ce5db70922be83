"""Files that are whole or absent. The same rule as in `propainter.io.atomic`, which nothing here may import."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `target` at the end of the block, or is removed on an error.

    The folder is made where it is missing. The temporary name keeps the target's ending.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.part{target.suffix}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_text(target: str | Path, text: str) -> None:
    """Write a file of UTF-8 whole.

    Raises:
        OSError: the folder can't be written to, or the disk is full.
    """
    with atomic_write(target) as partial:
        partial.write_text(text, encoding="utf-8")


def print_or_write(text: str, target: Path | None) -> None:
    """Print a text as it is, or write it to a file where one is given."""
    if target is None:
        print(text, end="")
    else:
        write_text(target, text)
