"""`scenes`: inpaint each shot by itself, so that nothing is taken from another shot."""

import csv
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from propainter.errors import InputError
from propainter.inference.pipeline import Pipeline
from propainter.io.paths import expand_home
from propainter.validation import check_whole
from variants.scene_detectors import DETECTORS

log = logging.getLogger(__name__)


def auto(
    pipeline: Pipeline,
    threshold: float | None = None,
    contrast: float | None = None,
    min_frames: int = 1,
    detector: str = "thumbnails",
) -> Pipeline:
    """Find cuts by the change of the picture.

    `effective["scenes"]` has `kind`, `detector` and `cuts`, the number of the first frame of each shot but the first.

    Args:
        threshold, contrast: see the detector. None is its default.
        min_frames: frames of the shortest shot. A cut that is nearer to the one before is left out.
        detector: one of `variants.scene_detectors.DETECTORS`.

    Raises:
        InputError: an option is out of range, or the detector has no such option.
        UnsupportedError: the detector's library is missing.
    """
    if detector not in list(DETECTORS):
        raise InputError(f"scenes.detector is {detector!r}; give one of {', '.join(DETECTORS)}")
    check_whole("scenes.min_frames", min_frames, least=1)
    chosen = DETECTORS[detector](threshold, contrast)

    def detect(frames: Iterable[np.ndarray], count: int) -> list[int]:
        cuts = [0]
        for cut in chosen.find(frames):
            if cut - cuts[-1] >= min_frames:
                cuts.append(cut)
        return _report(pipeline, {"kind": "auto", "detector": chosen.name}, cuts[1:])

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
