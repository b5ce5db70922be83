"""Videos read without the code under test."""

from pathlib import Path

import av
import numpy as np


def decoded(path: Path) -> list[np.ndarray]:
    """Return all frames that a player would show, uint8 [H, W, 3]."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
