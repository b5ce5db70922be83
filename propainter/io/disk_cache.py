"""Cache entries as files in a folder of bounded size."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from propainter.io.atomic import atomic_write
from propainter.io.paths import expand_home

log = logging.getLogger(__name__)

Value = TypeVar("Value")

ABANDONED_SECONDS = 24 * 3600
"""Age of a temporary file that counts as a killed run's leftover."""


class DiskLRUCache:
    """Cache entries by key in a folder, one file each; the least recently used are removed over `max_bytes`.

    Several processes may share the folder: an entry appears whole or not at all. A damaged entry counts as absent.

    Args:
        folder: created at the first write; `~` is the home folder.
        max_bytes: bound of all entries together. The newest entry stays, even a larger one.
        suffix: the files' suffix, with its dot.
    """

    def __init__(self, folder: str | Path, max_bytes: int, suffix: str) -> None:
        self.folder = expand_home(folder)
        self.max_bytes = max_bytes
        self.suffix = suffix

    def path(self, key: str) -> Path:
        """Return the path of the key's entry, existing or not."""
        return self.folder / f"{key}{self.suffix}"

    def read(self, key: str, load: Callable[[Path], Value], damage: tuple[type[Exception], ...] = ()) -> Value | None:
        """Return `load` of the entry's file; None for a missing file, and, with a warning, for a damaged one.

        Args:
            key: the entry's key.
            load: reader of a file. OSError counts as damage.
            damage: further exceptions of `load` that count as damage.
        """
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
        """Write an entry by `save`, called with a path, then remove the oldest entries over the bound.

        Raises:
            OSError: the folder is not writable, or the disk is full. Exceptions of `save` pass through.
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
