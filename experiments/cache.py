"""A bounded folder of arrays that took long to compute."""

import logging
from pathlib import Path

import numpy as np

from propainter.files import written_whole

log = logging.getLogger(__name__)


class ArrayCache:
    """Arrays by key in a folder, as .npy files; those used longest ago go when it grows over `max_bytes`.

    Safe with several processes: entries appear whole or not at all. A damaged entry counts as absent.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder.expanduser()
        self.max_bytes = max_bytes

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def get(self, key: str) -> np.ndarray | None:
        """The array of that key, or None."""
        path = self.path(key)
        try:
            array = np.load(path, allow_pickle=False)
            path.touch()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s is damaged (%s) and is made again", path, error)
            return None
        return array

    def put(self, key: str, array: np.ndarray) -> None:
        """Keep the array, and drop the oldest entries where the folder is too large then."""
        with written_whole(self.path(key)) as partial:
            np.save(partial, array)
        self._shrink(keep=self.path(key))

    def _shrink(self, keep: Path) -> None:
        entries = []
        for path in self.folder.glob("*.npy"):
            try:
                entries.append((path.stat(), path))
            except FileNotFoundError:  # another process dropped it
                continue
        entries.sort(key=lambda entry: entry[0].st_mtime)
        total = sum(stat.st_size for stat, _ in entries)
        for stat, path in entries:
            if total <= self.max_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= stat.st_size
