"""Files that are whole or absent: written to a temporary name beside the target, renamed when complete."""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")

ABANDONED_SECONDS = 24 * 3600
"""A temporary file that has not been written to for this long belongs to a run that was killed."""


@contextmanager
def atomic_write(target: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `target` at the end of the block, or is removed on an error.

    The folder is made where it is missing. The temporary name keeps the target's ending, for libraries that go by it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.part{target.suffix}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


class DiskLRUCache:
    """Entries by key, a file each; those used longest ago go when the folder grows over `max_bytes`.

    Safe with several processes: entries appear whole or not at all. A damaged entry counts as absent.

    Args:
        folder: made when the first entry is written; `~` is the home folder.
        max_bytes: bound of all entries together; the newest stays even where it is larger.
        suffix: the files' ending, with its dot.
    """

    def __init__(self, folder: str | Path, max_bytes: int, suffix: str) -> None:
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self.suffix = suffix

    def path(self, key: str) -> Path:
        """Where the entry of that key is, or would be."""
        return self.folder / f"{key}{self.suffix}"

    def read(self, key: str, load: Callable[[Path], Value], damage: tuple[type[Exception], ...] = ()) -> Value | None:
        """What `load` makes of the entry's file; None, with a warning, where it raises OSError or one of `damage`."""
        path = self.path(key)
        damages: tuple[type[Exception], ...] = (OSError, *damage)
        try:
            value = load(path)
        except FileNotFoundError:
            return None
        except damages as error:
            log.warning("%s is damaged (%s) and is made again", path, error)
            return None
        with suppress(OSError):  # a folder that can only be read
            path.touch()
        return value

    def write(self, key: str, save: Callable[[Path], object]) -> None:
        """Keep what `save` writes to the path it is given, and drop the oldest entries where the folder is too large.

        Raises:
            OSError: the folder can't be written to, or the disk is full; and whatever `save` raises.
        """
        path = self.path(key)
        with atomic_write(path) as partial:
            save(partial)
        self._shrink(keep=path)

    def _shrink(self, keep: Path) -> None:
        entries = []
        for path in self.folder.glob(f"*{self.suffix}"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process dropped it
                continue
            if not path.name.startswith("."):
                entries.append((stat, path))
            elif stat.st_mtime < time.time() - ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
        entries.sort(key=lambda entry: entry[0].st_mtime)
        total = sum(stat.st_size for stat, _ in entries)
        for stat, path in entries:
            if total <= self.max_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= stat.st_size
