"""Masks as they are stored: which values are hole, and a warning where they are grey."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from propainter.errors import InputError
from propainter.io.images import LOSSLESS_THRESHOLD, LOSSY_THRESHOLD, read_mask_image

log = logging.getLogger(__name__)

LOSSLESS, LOSSY, MIXED = "lossless", "lossy", "mixed"

GREY_SHARE = 0.0001
"""From this share of a mask's pixels on, grey is worth a warning."""

MOST_LABELS = 64
"""A mask with more distinct values between 0 and 255 is a soft one, and numbers no objects."""

LOSSY_GREYS = (16, 240)
"""Values from the first and below the second are grey in a lossy file, whose black and white are blurred."""


def check_threshold(threshold: object) -> None:
    """Raise InputError unless `data.mask_threshold` is null or a whole number from 0 to 254."""
    whole = isinstance(threshold, int) and not isinstance(threshold, bool)
    if threshold is not None and not (whole and 0 <= threshold <= 254):  # type: ignore[operator]
        raise InputError(
            f"data.mask_threshold is {threshold!r}, where a whole number from 0 to 254 was expected: values above it "
            "are hole; null goes by how the masks are stored."
        )


@dataclass
class HoleReader:
    """Turn stored masks into holes, uint8 {0, 1} [H, W]; warn once of a grey mask.

    Attributes:
        threshold: values above it are hole; None for 0 in lossless files and 127 in others.
    """

    threshold: int | None = None
    _warned: bool = field(default=False, init=False)

    def picture(self, path: Path) -> np.ndarray:
        """Read a picture."""
        mask = read_mask_image(path)
        return self.hole(mask.values, mask.lossless, str(path))

    def hole(self, values: np.ndarray, lossless: bool, name: str) -> np.ndarray:
        """Return the hole of values, uint8 [H, W]; `name` is the mask's, for the warning."""
        threshold = (LOSSLESS_THRESHOLD if lossless else LOSSY_THRESHOLD) if self.threshold is None else self.threshold
        share = 0.0 if self._warned else grey_share(values, lossless)
        if share > GREY_SHARE:
            self._warned = True
            log.warning(
                "%s is grey in %.2g%% of its pixels, neither black nor white: values above %d are hole "
                "(data.mask_threshold, 0 to 254, sets another)",
                name,
                100 * share,
                threshold,
            )
        return (values > threshold).astype(np.uint8)


def grey_share(values: np.ndarray, lossless: bool) -> float:
    """Return which share of a mask's pixels are neither black nor white, 0 to 1.

    In a lossless mask values may number objects, as in DAVIS, and then lie in areas: these are 0. Grey is there what
    differs from both neighbours in a row or a column, as soft edges do, or takes very many values.
    """
    if not lossless:
        least, end = LOSSY_GREYS
        return float(((values >= least) & (values < end)).mean())
    grey = (values > 0) & (values < 255)
    count = np.count_nonzero(grey)
    if not count:
        return 0.0
    many = np.count_nonzero(np.bincount(values[grey], minlength=256)) > MOST_LABELS
    padded = np.pad(values, 1, mode="edge")
    row = (padded[1:-1, :-2] != values) & (padded[1:-1, 2:] != values)
    column = (padded[:-2, 1:-1] != values) & (padded[2:, 1:-1] != values)
    edges = np.count_nonzero(grey & (row | column))
    return count / values.size if many or edges > count / 2 else 0.0


def common_storage(lossless: Iterable[bool]) -> str:
    """Return "lossless", "lossy" or "mixed" for the files of a clip's masks."""
    kinds = set(lossless)
    return MIXED if len(kinds) > 1 else LOSSLESS if kinds == {True} else LOSSY
