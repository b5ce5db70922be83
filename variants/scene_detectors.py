"""Find scene cuts by the change of the picture: by thumbnails, or by PySceneDetect (https://www.scenedetect.com)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from propainter.errors import InputError
from propainter.validation import above_0, check_number
from variants import UnsupportedError

THUMBNAIL = (32, 18)
"""Width and height in pixels at which frames are compared: what moves by less than a pixel of these changes little."""

REACH = 3
"""Frames on each side of a cut that are compared with those on the other side."""


class Detector(NamedTuple):
    """A way to find cuts.

    Attributes:
        name: for the record, with the library's version.
        find: (frames uint8 [H, W, 3], all of one size) -> the number of each frame that begins a shot but the first.
    """

    name: str
    find: Callable[[Iterable[np.ndarray]], Iterator[int]]


def thumbnails(threshold: float | None = None, contrast: float | None = None) -> Detector:
    """Return the detector of `cuts_of`, whose defaults are 5 % and 2.5.

    Raises:
        InputError: an option is out of range.
    """
    threshold, contrast = 5 if threshold is None else threshold, 2.5 if contrast is None else contrast
    check_number("scenes.threshold", threshold, lambda number: 0 < number < 100, "a percentage such as 5")
    check_number("scenes.contrast", contrast, above_0, "a number above 0, such as 2.5")
    return Detector("thumbnails", partial(cuts_of, threshold=threshold, contrast=contrast))


def adaptive(threshold: float | None = None, contrast: float | None = None) -> Detector:
    """Return PySceneDetect's `AdaptiveDetector`, which takes no frame among the first two and last two for a cut.

    `threshold` is the least ratio of the change at a cut to the mean of the two changes before and the two after it.
    See https://www.scenedetect.com/docs/latest/api/detectors.html.

    Raises:
        InputError: an option is out of range, or a contrast is given.
        UnsupportedError: the library is missing.
    """
    _check("adaptive", threshold, contrast, "a ratio from above 0 to 255, such as 3")
    return _pyscenedetect("adaptive", "AdaptiveDetector", "adaptive_threshold", threshold)


def content(threshold: float | None = None, contrast: float | None = None) -> Detector:
    """Return PySceneDetect's `ContentDetector`.

    `threshold` is the least mean change of hue, saturation and value at a cut, in steps of 8 bits. See
    https://www.scenedetect.com/docs/latest/api/detectors.html.

    Raises:
        InputError: an option is out of range, or a contrast is given.
        UnsupportedError: the library is missing.
    """
    _check("content", threshold, contrast, "a change from above 0 to 255, such as 27")
    return _pyscenedetect("content", "ContentDetector", "threshold", threshold)


DETECTORS: dict[str, Callable[[float | None, float | None], Detector]] = {
    "thumbnails": thumbnails,
    "adaptive": adaptive,
    "content": content,
}
"""Detectors by the names that `scenes.detector` takes: (threshold, contrast) -> detector. None is the default."""


def _check(name: str, threshold: float | None, contrast: float | None, expected: str) -> None:
    if contrast is not None:
        raise InputError(
            f"scenes.contrast is {contrast!r}, but scenes.detector={name} has no contrast; leave scenes.contrast out, "
            "or give scenes.detector=thumbnails"
        )
    if threshold is not None:
        check_number("scenes.threshold", threshold, lambda number: 0 < number <= 255, expected)


def _pyscenedetect(name: str, detector: str, key: str, threshold: float | None) -> Detector:
    """Return a detector of PySceneDetect, which keeps cuts however near they are to each other."""
    try:
        import scenedetect  # slow to import
        from scenedetect.common import FrameTimecode  # not in versions before 0.7
    except ImportError as error:
        raise UnsupportedError(
            f"scenes.detector={name} needs PySceneDetect 0.7 or newer ({error}): pip install "
            "'propainter-bench[scenes]', or scenes.detector=thumbnails"
        ) from error
    options: dict[str, Any] = {"min_scene_len": 0} | ({} if threshold is None else {key: threshold})

    def find(frames: Iterable[np.ndarray]) -> Iterator[int]:
        running, time = getattr(scenedetect, detector)(**options), FrameTimecode(0, 1.0)
        for number, frame in enumerate(frames):
            time = FrameTimecode(number, 1.0)
            yield from (cut.frame_num for cut in running.process_frame(time, _as_pyscenedetect_sees(frame)))
        yield from (cut.frame_num for cut in running.post_process(time))

    return Detector(f"{name} (scenedetect {scenedetect.__version__})", find)


def _as_pyscenedetect_sees(frame: np.ndarray) -> np.ndarray:
    """Return a frame as BGR, the longer side at most 256 pixels, as PySceneDetect itself resamples a video."""
    import cv2
    from scenedetect.scene_manager import compute_downscale_factor

    height, width = frame.shape[:2]
    factor = compute_downscale_factor(max(width, height))
    if factor > 1:
        frame = cv2.resize(frame, (max(1, round(width / factor)), max(1, round(height / factor))))
    return np.ascontiguousarray(frame[..., ::-1])


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
