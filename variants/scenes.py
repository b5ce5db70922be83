"""`scenes`: inpaint each shot by itself, so that nothing is taken from another shot."""

import csv
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from propainter.errors import InputError
from propainter.inference.pipeline import Pipeline
from propainter.io.paths import expand_home
from propainter.validation import above_0, check_number, check_whole

log = logging.getLogger(__name__)

THUMBNAIL = (32, 18)
"""Width and height in pixels at which frames are compared: what moves by less than a pixel of these changes little."""

REACH = 3
"""Frames on each side of a cut that are compared with those on the other side."""


def auto(pipeline: Pipeline, threshold: float = 5, contrast: float = 2.5, min_frames: int = 1) -> Pipeline:
    """Find cuts by the change of the picture; see `cuts_of`.

    `effective["scenes"]` has `kind`, `detector` and `cuts`, the number of the first frame of each shot but the first.

    Args:
        threshold, contrast: see `cuts_of`.
        min_frames: frames of the shortest shot. A cut that is nearer to the one before is left out.

    Raises:
        InputError: an option is out of range.
    """
    check_number("scenes.threshold", threshold, lambda number: 0 < number < 100, "a percentage such as 5")
    check_number("scenes.contrast", contrast, above_0, "a number above 0, such as 2.5")
    check_whole("scenes.min_frames", min_frames, least=1)

    def detect(frames: Iterable[np.ndarray], count: int) -> list[int]:
        cuts = [0]
        for cut in cuts_of(frames, threshold, contrast):
            if cut - cuts[-1] >= min_frames:
                cuts.append(cut)
        return _report(pipeline, {"kind": "auto", "detector": "change of thumbnails"}, cuts[1:])

    pipeline.scene_detector = detect
    return pipeline


def from_file(pipeline: Pipeline, path: str | Path | None = None) -> Pipeline:
    """Read cuts from a file; see `read_cuts`.

    `effective["scenes"]` is as in `auto`, with `path` for `detector`, and with `after_end`, the number of cuts that are
    left out since they are after the end of the clip. They are a warning.

    Raises:
        InputError: the file is missing or has something else.
    """
    if path is None:
        raise InputError("scenes=file needs a file of cuts; give scenes.path=cuts.txt")
    known, warned = read_cuts(expand_home(path)), set()

    def detect(frames: Iterable[np.ndarray], count: int) -> list[int]:
        cuts = [cut for cut in known if cut < count]
        after_end = len(known) - len(cuts)
        if after_end and count not in warned:  # once, not in each timed run
            warned.add(count)
            log.warning("%d of the %d cuts in %s are after the last of %d frames", after_end, len(known), path, count)
        return _report(pipeline, {"kind": "file", "path": str(path), "after_end": after_end}, cuts)

    pipeline.scene_detector = detect
    return pipeline


def cuts_of(frames: Iterable[np.ndarray], threshold: float, contrast: float) -> Iterator[int]:
    """Yield the number of each frame that begins a shot, but for the first frame.

    Frames are compared as thumbnails. There is a cut where none of the 3 frames after it is like any of the 3 frames
    before it. So a flash of one or two frames is no cut. The frames must differ by `threshold`, and by `contrast` times
    the change from frame to frame on either side, so that a pan is no cut. A dissolve of more than some frames has no
    cut.

    Args:
        frames: uint8 [H, W, 3].
        threshold: mean absolute difference in percent of the range from black to white. The range is on a scale that is
            steeper where it is dark.
        contrast: least ratio of the difference across the cut to the mean of the differences before and after it.
    """
    near: deque[np.ndarray] = deque(maxlen=2 * REACH)  # thumbnails of the frames up to REACH after the candidate
    number = 0
    for number, frame in enumerate(frames):
        near.append(_thumbnail(frame))
        candidate = number - REACH + 1
        if candidate > 0 and _is_cut(list(near), len(near) - REACH, threshold, contrast):
            yield candidate
    for after in range(REACH - 1, 0, -1):  # the last frames have fewer after them
        if len(near) > after and number - after + 1 > 0:
            position = len(near) - after
            if _is_cut(list(near)[max(0, position - REACH) :], min(position, REACH), threshold, contrast):
                yield number - after + 1


def _is_cut(near: Sequence[np.ndarray], position: int, threshold: float, contrast: float) -> bool:
    """Return whether the thumbnails from `position` on belong to another shot than those before."""
    before, after = near[:position], near[position:]
    across = min(_difference(a, b) for a in before for b in after)
    sides = [min(_difference(a, b) for a, b in pairwise(side)) for side in (before, after) if len(side) > 1]
    around = sum(sides) / len(sides) if sides else 0.0
    return across >= threshold and across >= contrast * around


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """Return float32 [18, 32, 3], 0 to 100, on a scale that raises differences in the dark."""
    step = max(1, min(frame.shape[0] // 144, frame.shape[1] // 256))  # some pixels of a large frame are enough
    sampled = np.ascontiguousarray(frame[::step, ::step])
    small = np.asarray(Image.fromarray(sampled).resize(THUMBNAIL, Image.Resampling.BOX), np.float32)
    return 100 * (np.sqrt(small + 16) - 4) / (np.sqrt(255 + 16) - 4)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def read_cuts(path: Path) -> list[int]:
    """Return the cuts in a file, rising, each once; frame 0 begins no new shot, and is left out.

    The file has one frame number a line, from 0, and lines that begin with `#`. Or it is the CSV of PySceneDetect's
    `list-scenes` (https://www.scenedetect.com/docs/latest/cli.html#list-scenes), whose frames are numbered from 1.

    Raises:
        InputError: the file can't be read, or has something else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the cuts in {path} can't be read ({error}); give a text file") from None
    table = next((number for number, line in enumerate(lines) if "Start Frame" in line.split(",")), None)
    if table is None:
        texts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    else:
        texts = [row["Start Frame"] or "" for row in csv.DictReader(lines[table:])]
    for text in texts:
        if not text.isdecimal():
            raise InputError(f"{path} has {text!r} where the number of a frame should be; give one number a line")
    cuts = {int(text) - (table is not None) for text in texts}
    return sorted(cut for cut in cuts if cut > 0)


def _report(pipeline: Pipeline, about: dict[str, Any], cuts: list[int]) -> list[int]:
    before, found = pipeline.effective.get("scenes"), {**about, "cuts": cuts}
    if found != before:  # said once, not in each timed run
        log.info("scene cuts at frames: %s", ", ".join(map(str, cuts)) or "none")
    pipeline.effective["scenes"] = found
    return cuts
