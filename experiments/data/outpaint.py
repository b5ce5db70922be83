"""Outpainting: the video is centred on a larger canvas, and the hole is everything around it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat

import numpy as np
from PIL import Image

from experiments.data.clip import Clip
from propainter.errors import InputError
from propainter.io.video_format import VideoInfo

FLOW_MARGIN = 4
"""Pixels by which the hole of the flow reaches into the video, whose flow is unreliable next to its edge."""

WIDE_BORDER = 10
"""Only a border wider than this, in pixels, has that margin."""


def outpaint_scales(outpaint: Mapping[str, float | None] | None) -> tuple[float, float] | None:
    """Return the factors (height, width) of a mapping {"scale_h": 1.0, "scale_w": 1.2}; None without any.

    A factor that is missing or None is 1.0.

    Raises:
        InputError: a factor below 1, or another name.
    """
    given = {name: scale for name, scale in (outpaint or {}).items() if scale is not None}
    for name, scale in given.items():
        if name not in ("scale_h", "scale_w"):
            raise InputError(f"data.outpaint has no option {name}, only scale_h and scale_w: rename it.")
        if not isinstance(scale, (int, float)) or not scale >= 1:
            raise InputError(f"data.outpaint.{name} is {scale}, where at least 1 was expected: raise it.")
    return (given.get("scale_h", 1.0), given.get("scale_w", 1.0)) if given else None


def outpaint_clip(clip: Clip, scale_h: float, scale_w: float) -> "OutpaintClip":
    """Return `clip` on a canvas `scale_h` times as high and `scale_w` times as wide, both multiples of 8 pixels.

    The video is first resized down to multiples of 8 (bicubic), as the network's process size is. Holes of `clip`
    itself are not used.

    Raises:
        InputError: the canvas would not be larger than the video.
    """
    height, width = clip.height // 8 * 8, clip.width // 8 * 8
    canvas_height, canvas_width = int(scale_h * height) // 8 * 8, int(scale_w * width) // 8 * 8
    if (canvas_height, canvas_width) == (height, width):
        raise InputError(
            f"outpainting {clip.name} by scale_h={scale_h} and scale_w={scale_w} keeps its {width}x{height} "
            "pixels (width x height): give a larger data.outpaint.scale_h or data.outpaint.scale_w."
        )
    return OutpaintClip(
        name=clip.name,
        num_frames=clip.num_frames,
        height=canvas_height,
        width=canvas_width,
        fps=clip.fps,
        video=clip,
        video_height=height,
        video_width=width,
    )


@dataclass(frozen=True)
class OutpaintClip(Clip):
    """`video` at `video_height` x `video_width` pixels, centred on black; the truth around it is unknown."""

    video: Clip
    video_height: int
    video_width: int

    @property
    def top(self) -> int:
        return (self.height - self.video_height) // 2

    @property
    def left(self) -> int:
        return (self.width - self.video_width) // 2

    def frames(self) -> Iterator[np.ndarray]:
        rows, columns = self._inside()
        size = (self.video_width, self.video_height)
        for frame in self.video.frames():
            canvas = np.zeros((self.height, self.width, 3), np.uint8)
            canvas[rows, columns] = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
            yield canvas

    def masks(self) -> Iterator[np.ndarray]:
        return repeat(self._around(*self._inside()), self.num_frames)

    def times(self) -> Sequence[Fraction] | None:
        return self.video.times()

    def original(self) -> VideoInfo | None:
        return self.video.original()

    def flow_masks(self) -> Iterator[np.ndarray]:
        margin_y = FLOW_MARGIN if self.top > WIDE_BORDER else 0
        margin_x = FLOW_MARGIN if self.left > WIDE_BORDER else 0
        return repeat(self._around(*self._inside(margin_y, margin_x)), self.num_frames)

    def _inside(self, margin_y: int = 0, margin_x: int = 0) -> tuple[slice, slice]:
        return (
            slice(self.top + margin_y, self.top + self.video_height - margin_y),
            slice(self.left + margin_x, self.left + self.video_width - margin_x),
        )

    def _around(self, rows: slice, columns: slice) -> np.ndarray:
        mask = np.ones((self.height, self.width), np.uint8)
        mask[rows, columns] = 0
        return mask
