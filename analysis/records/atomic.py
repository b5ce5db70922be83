"""Files that are whole or absent. The same rule as in `propainter.io.atomic`, which nothing here may import."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `target` at the end of the block, or is removed on an error.

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
