"""A disk cache of arrays that are slow to compute; one process at a time computes each."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from propainter.io.disk_cache import DiskLRUCache

log = logging.getLogger(__name__)


class ArrayCache(DiskLRUCache):
    """Arrays by key, one .npy file each; see `DiskLRUCache`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        super().__init__(folder, max_bytes, ".npy")

    def get(self, key: str) -> np.ndarray | None:
        """Return the array of that key, or None."""
        return self.read(key, partial(np.load, allow_pickle=False), damage=(ValueError, EOFError))

    def put(self, key: str, array: np.ndarray) -> None:
        """Store the array.

        Raises:
            OSError: the folder can't be written.
        """
        self.write(key, lambda path: np.save(path, array))

    @contextmanager
    def claimed(self, key: str, what: str) -> Iterator[None]:
        """Hold the key's lock inside the block: one process at a time, the others wait.

        The operating system frees the lock when its process ends, however it ends. The lock's small file stays. Without
        a lock (a folder that can't be written) there is a warning, and the block runs all the same.

        Args:
            what: what is computed, for the log of a process that waits.
        """
        with ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self.folder / f"{key}.lock")
                try:
                    held.enter_context(lock.acquire(timeout=0))
                except Timeout:
                    log.info("another process is computing %s; waiting for it", what)
                    held.enter_context(lock.acquire())
            except OSError as error:
                log.warning("%s can't hold a lock (%s): another process may compute %s too", self.folder, error, what)
            yield
