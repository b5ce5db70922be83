"""A bounded folder of arrays that took long to compute."""

from functools import partial
from pathlib import Path

import numpy as np

from propainter.files import BoundedFolder


class ArrayCache(BoundedFolder):
    """Arrays by key in a folder, as .npy files; see `BoundedFolder`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        super().__init__(folder, max_bytes, ".npy")

    def get(self, key: str) -> np.ndarray | None:
        """The array of that key, or None."""
        return self.read(key, partial(np.load, allow_pickle=False), damage=(ValueError, EOFError))

    def put(self, key: str, array: np.ndarray) -> None:
        """Keep the array."""
        self.write(key, lambda path: np.save(path, array))
