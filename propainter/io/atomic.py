"""Write files atomically: to a temporary name in the target's folder, renamed when complete."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, renamed to `target` after the block and removed on an error.

    A missing folder is created. The temporary name keeps the target's suffix, since libraries choose formats by suffix.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.part{target.suffix}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
