"""A folder of frames with holes drawn over them: the truth behind a hole is the frame itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from experiments.data.clip import Clip
from experiments.data.file_clip import FileClip, ImageFiles
from propainter.errors import InputError
from propainter.io.images import list_images, read_image
from propainter.io.paths import expand_home

HOLES = ("ellipse", "random")

ELLIPSE = (0.15, 0.2)
"""Half axes across and down, as fractions of the frame's shorter side."""

REACH, PERIODS = 0.25, (113, 79)
"""How far the ellipse swings across and down, as a fraction of the frame's sides, and in how many frames."""


def clips_of_folder(
    folder: str | Path, num_frames: int, height: int, width: int, kind: str = "ellipse", most: int = 1, fps: float = 24
) -> list["MadeUpHoles"]:
    """Cut a folder's images into clips, one after the other, each with a hole of its own.

    Args:
        folder: of images in natural order.
        num_frames: of each clip. A folder of fewer images gives one shorter clip.
        height, width: to which frames are resized, in pixels.
        kind: "ellipse" for one that moves, "random" for the masks of the published training.
        most: number of clips, at most; images beyond are left out.

    Raises:
        InputError: there is no such kind, or the folder can't be read.
    """
    if kind not in HOLES:
        raise InputError(f"task.holes is {kind!r}; give {' or '.join(HOLES)}")
    path = expand_home(folder)
    if not path.is_dir():
        raise InputError(f"task.folder is {folder}, which is no folder; give a folder of images")
    images = list_images(path)
    parts = [images[start : start + num_frames] for start in range(0, len(images), num_frames)]
    whole = [part for part in parts if len(part) == num_frames] or parts[:1]
    return [
        MadeUpHoles(f"{path.resolve().name} {number}", len(part), height, width, float(fps), part, kind, seed=number)
        for number, part in enumerate(whole[:most])
    ]


@dataclass(frozen=True)
class MadeUpHoles(Clip):
    """Frames of image files with a drawn hole.

    Attributes:
        paths: of the images.
        kind: one of `HOLES`.
        seed: chooses the hole's shape and path.
    """

    paths: list[Path]
    kind: str
    seed: int

    def frames(self) -> Iterator[np.ndarray]:
        source = ImageFiles(self.paths, read_image)
        size = source.size()
        if size is None:
            return
        frames = FileClip(self.name, self.num_frames, self.height, self.width, self.fps, source, size, None, False)
        yield from frames.frames()

    def truth(self) -> Iterator[np.ndarray]:
        return self.frames()

    def masks(self) -> Iterator[np.ndarray]:
        if self.kind == "random":
            yield from self._random_masks()
            return
        phases = np.random.default_rng(self.seed).uniform(0, 2 * math.pi, 2)
        radii = [part * min(self.height, self.width) for part in ELLIPSE]
        for index in range(self.num_frames):
            swings = [
                math.sin(2 * math.pi * index / period + phase) for period, phase in zip(PERIODS, phases, strict=True)
            ]
            x, y = (side * (0.5 + REACH * swing) for side, swing in zip((self.width, self.height), swings, strict=True))
            mask = Image.new("L", (self.width, self.height))
            ImageDraw.Draw(mask).ellipse((x - radii[0], y - radii[1], x + radii[0], y + radii[1]), fill=1)
            yield np.asarray(mask)

    def _random_masks(self) -> np.ndarray:
        try:
            from propainter.training.masks import random_masks
        except ModuleNotFoundError as error:
            raise InputError(
                f"task.holes=random needs {error.name}, which is not installed; install the extra: "
                "pip install 'propainter-bench[training]'"
            ) from error
        return random_masks(np.random.default_rng(self.seed), self.num_frames, self.height, self.width)
