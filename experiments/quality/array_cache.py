"""A bounded folder of arrays that took long to compute, each computed by one process at a time."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from propainter.io.atomic import DiskLRUCache

log = logging.getLogger(__name__)


class ArrayCache(DiskLRUCache):
    """Arrays by key in a folder, as .npy files; see `DiskLRUCache`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        super().__init__(folder, max_bytes, ".npy")

    def get(self, key: str) -> np.ndarray | None:
        """The array of that key, or None."""
        return self.read(key, partial(np.load, allow_pickle=False), damage=(ValueError, EOFError))

    def put(self, key: str, array: np.ndarray) -> None:
        """Keep the array."""
        self.write(key, lambda path: np.save(path, array))

    @contextmanager
    def claimed(self, key: str, what: str) -> Iterator[None]:
        """One process at a time is inside this block with the same key; the others wait.

        The lock is the system's, on a small file that stays in the folder: it ends with the process that holds it,
        however that ends. A folder that can't hold one is a warning, and the block is entered all the same.

        Args:
            what: what is being computed, for the line that says that another process is waited for.
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
