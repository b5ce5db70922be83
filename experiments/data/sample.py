"""A clip drawn at run time from photographs that scikit-image ships inside its wheel: nothing to download.

The camera pans, zooms and turns slowly over a garage with a motorcycle while a cup of coffee floats through
the picture. The cup is the hole; as it is drawn over the garage, what is behind it is known exactly.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageDraw

from experiments.data.clip import Clip
from propainter.validation import above_0, check_number, check_whole

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"

# How far things move: fractions of the frame's sides (across, down), degrees, a zoom factor; and the period of each
# swing in frames. No two periods share a factor: a long clip does not repeat itself.
PAN, PAN_PERIODS = (0.085, 0.06), (83, 61)
ZOOM, ZOOM_PERIOD = 0.04, 131
TILT_DEG, TILT_PERIOD = 2.0, 107
CUP_PATH, CUP_PERIODS = (0.27, 0.2), (113, 79)
CUP_TILT_DEG, CUP_TILT_PERIOD = 12.0, 89

Matrix = tuple[float, float, float, float, float, float]
"""An affine map as Pillow takes it: the first two rows of its matrix, row by row."""

CUP_SIZE = 0.34  # of the frame's shorter side
# Where the cup is in coffee.png: left, top, right, bottom of a box and of its two ellipses.
CUP_BOX = (72, 11, 486, 399)
CUP_ELLIPSES = ((82, 37, 476, 389), (176, 21, 407, 207))


def sample_clip(
    num_frames: int = 6, height: int = 128, width: int = 160, fps: float = 24, seed: int = 0
) -> "SampleClip":
    """Return a clip with a cup of coffee to remove from a slow camera move, and the truth behind it.

    Every call gives the same bits. Motion grows with the size, and stays smooth and inside the photograph for any
    `num_frames`.

    Args:
        height, width: in pixels.
        seed: chooses where on their paths the camera and the cup start.

    Raises:
        InputError: a value is out of range.
    """
    check_whole("data.num_frames", num_frames, least=1)
    check_whole("data.height", height, least=1)
    check_whole("data.width", width, least=1)
    check_whole("data.seed", seed, least=0)
    check_number("data.fps", fps, above_0, "a number of frames per second above 0")
    return SampleClip("sample", num_frames, height, width, fps, seed)


@dataclass(frozen=True)
class SampleClip(Clip):
    """The clip of `sample_clip`; each frame is drawn on its own."""

    seed: int

    def frames(self) -> Iterator[np.ndarray]:
        for index in range(self.num_frames):
            frame = self._background(index)
            cup = self._cup(index)
            frame.paste(cup, mask=cup.getchannel("A"))
            yield np.array(frame)

    def masks(self) -> Iterator[np.ndarray]:
        for index in range(self.num_frames):
            yield (np.array(self._cup(index).getchannel("A")) > 0).astype(np.uint8)

    def truth(self) -> Iterator[np.ndarray]:
        for index in range(self.num_frames):
            yield np.array(self._background(index))

    def exact_flow(self) -> tuple[np.ndarray, np.ndarray]:
        views = [np.array([*self._background_view(index), 0, 0, 1]).reshape(3, 3) for index in range(self.num_frames)]
        rows, columns = np.mgrid[: self.height, : self.width]
        # Pillow's coordinates: the middle of the first pixel is at 0.5, 0.5.
        points = np.stack([columns + 0.5, rows + 0.5, np.ones_like(rows)]).reshape(3, -1)

        def flow(view: np.ndarray, other: np.ndarray) -> np.ndarray:
            moved = np.linalg.inv(other) @ view @ points - points
            return moved[:2].reshape(2, self.height, self.width).astype(np.float32)

        pairs = list(pairwise(views))
        shape = (len(pairs), 2, self.height, self.width)
        forward, backward = ([flow(a, b) for a, b in pairs], [flow(b, a) for a, b in pairs])
        return np.array(forward, np.float32).reshape(shape), np.array(backward, np.float32).reshape(shape)

    @cached_property
    def _phases(self) -> dict[str, float]:
        draw = np.random.default_rng(self.seed).uniform
        phases = {name: draw(0, 2 * math.pi) for name in ("pan", "zoom", "tilt", "cup", "cup_tilt")}
        # About a quarter turn apart: at the start, movement across and movement down never pause together.
        return phases | {f"{name}_down": phases[name] + math.pi / 2 + draw(-0.6, 0.6) for name in ("pan", "cup")}

    def _swing(self, name: str, period: float, index: int) -> float:
        return math.sin(2 * math.pi * index / period + self._phases[name])

    @cached_property
    def _photograph(self) -> Image.Image:
        """The garage, large enough for every view of the camera, at about the frame's own resolution."""
        photograph = Image.open(PHOTOGRAPHS / "motorcycle_left.png").convert("RGB")
        sine, cosine = math.sin(math.radians(TILT_DEG)), math.cos(math.radians(TILT_DEG))
        reach_x = (1 + ZOOM) * (self.width * cosine + self.height * sine) / 2 + PAN[0] * self.width + 2
        reach_y = (1 + ZOOM) * (self.height * cosine + self.width * sine) / 2 + PAN[1] * self.height + 2
        scale = max(2 * reach_x / photograph.width, 2 * reach_y / photograph.height)
        size = (math.ceil(photograph.width * scale), math.ceil(photograph.height * scale))
        return photograph.resize(size, Image.Resampling.LANCZOS)

    def _background(self, index: int) -> Image.Image:
        return self._transformed(self._photograph, self._background_view(index))

    def _background_view(self, index: int) -> Matrix:
        return self._view(
            self._photograph,
            shift_x=PAN[0] * self.width * self._swing("pan", PAN_PERIODS[0], index),
            shift_y=PAN[1] * self.height * self._swing("pan_down", PAN_PERIODS[1], index),
            scale=1 + ZOOM * self._swing("zoom", ZOOM_PERIOD, index),
            angle=math.radians(TILT_DEG) * self._swing("tilt", TILT_PERIOD, index),
        )

    @cached_property
    def _cup_cutout(self) -> Image.Image:
        """The cup with its saucer as RGBA, transparent around it, at the size that it has in a frame."""
        photograph = Image.open(PHOTOGRAPHS / "coffee.png").convert("RGB")
        outline = Image.new("L", (photograph.width * 4, photograph.height * 4))
        for ellipse in CUP_ELLIPSES:
            ImageDraw.Draw(outline).ellipse([4 * side for side in ellipse], fill=255)
        photograph.putalpha(outline.resize(photograph.size, Image.Resampling.BOX))
        cup = photograph.crop(CUP_BOX)
        scale = CUP_SIZE * min(self.height, self.width) / cup.height
        size = (max(1, round(cup.width * scale)), max(1, round(cup.height * scale)))
        return cup.resize(size, Image.Resampling.BICUBIC)

    def _cup(self, index: int) -> Image.Image:
        view = self._view(
            self._cup_cutout,
            shift_x=CUP_PATH[0] * self.width * self._swing("cup", CUP_PERIODS[0], index),
            shift_y=CUP_PATH[1] * self.height * self._swing("cup_down", CUP_PERIODS[1], index),
            scale=1.0,
            angle=math.radians(CUP_TILT_DEG) * self._swing("cup_tilt", CUP_TILT_PERIOD, index),
        )
        return self._transformed(self._cup_cutout, view)

    def _view(self, image: Image.Image, *, shift_x: float, shift_y: float, scale: float, angle: float) -> Matrix:
        """Map a frame to `image`: its middle moved by a shift (in pixels), scaled and turned (radians)."""
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        middle_x, middle_y = self.width / 2, self.height / 2
        offset_x = image.width / 2 + shift_x - cosine * middle_x + sine * middle_y
        offset_y = image.height / 2 + shift_y - sine * middle_x - cosine * middle_y
        return (cosine, -sine, offset_x, sine, cosine, offset_y)

    def _transformed(self, image: Image.Image, matrix: Matrix) -> Image.Image:
        size = (self.width, self.height)
        return image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
