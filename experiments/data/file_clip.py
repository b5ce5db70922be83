"""Clips read from files, pictures or videos alike: counts, sizes and masks are matched here."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.clip import Clip, check_above_zero, check_whole
from experiments.data.outpaint import outpaint_clip, outpaint_scales
from propainter.errors import InputError
from propainter.io.video import IMAGE_SUFFIXES, iterate_video, list_images, probe_video, read_mask

ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class ImageFiles:
    """Pictures in their order; `decode` turns one file into an array."""

    paths: list[Path]
    decode: Callable[[Path], np.ndarray]

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def count(self, at_most: int | None = None) -> int:
        return len(self.paths[:at_most])

    def read(self, at_most: int | None = None) -> Iterator[np.ndarray]:
        return (self.decode(path) for path in self.paths[:at_most])


@dataclass(frozen=True)
class VideoFile:
    """A video's frames; `convert` turns an RGB frame into what is wanted of it."""

    path: Path
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray

    def name(self, index: int) -> str:
        return f"frame {index} of {self.path}"

    def count(self, at_most: int | None = None) -> int:
        announced = probe_video(self.path).num_frames
        if announced is None:
            return sum(1 for _ in iterate_video(self.path, at_most))
        return announced if at_most is None else min(announced, at_most)

    def read(self, at_most: int | None = None) -> Iterator[np.ndarray]:
        return (self.convert(frame) for frame in iterate_video(self.path, at_most))


def mask_files(path: Path) -> ImageFiles | VideoFile:
    """Masks from a folder of images, from one image for all frames, or from a video.

    In an image every value but zero is hole. In a video only values above 127 (of 255, in any channel) are,
    as compression leaves small values where there was black.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path} does not exist, where masks (a folder, an image or a video) were expected: check data.masks."
        )
    if path.is_dir():
        return ImageFiles(list_images(path), read_mask)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFiles([path], read_mask)
    return VideoFile(path, convert=lambda frame: (frame.max(axis=2) > 127).astype(np.uint8))


def footage_clip(
    name: str,
    frames: ImageFiles | VideoFile,
    masks: str | Path | None,
    fps: float,
    *,
    height: int | None,
    width: int | None,
    resize_ratio: float,
    max_frames: int | None,
    outpaint: Mapping[str, float | None] | None,
) -> Clip:
    """Matches frames with masks and resizes both; see `folder_clip` and `video_clip` for the options."""
    scales = outpaint_scales(outpaint)
    if masks is None and scales is None:
        raise InputError(
            "data.masks is missing: give a folder of masks, one mask image or a mask video "
            "(or data.outpaint.scale_w=1.2 to extend the picture instead)."
        )
    if masks is not None and scales is not None:
        raise InputError(
            "both data.masks and data.outpaint are given, and outpainting fills only the border: leave one of them out."
        )
    for option, value in (("height", height), ("width", width), ("max_frames", max_frames)):
        if value is not None:
            check_whole(option, value, least=1)
    check_above_zero("resize_ratio", resize_ratio)
    check_above_zero("fps", fps)

    mask_source = None if masks is None else mask_files(masks)
    mask_count = 1 if mask_source is None else mask_source.count()
    total = frames.count(max_frames if mask_count == 1 else None)
    if mask_count not in (1, total):
        raise InputError(
            f"{masks} holds {mask_count} masks for {total} frames: give one mask for all, or {total} masks."
        )
    first = next(iter(frames.read(1)), None)
    if first is None:
        raise InputError(f"{name} has no frame: give a clip of at least two frames.")
    source_size = first.shape[:2]
    clip_height, clip_width = _target_size(source_size, height, width, resize_ratio)
    clip = FootageClip(
        name=name,
        num_frames=total if max_frames is None else min(total, max_frames),
        height=clip_height,
        width=clip_width,
        fps=float(fps),
        source=frames,
        source_size=source_size,
        mask_source=mask_source,
        one_mask=mask_count == 1,
    )
    return clip if scales is None else outpaint_clip(clip, *scales)


@dataclass(frozen=True)
class FootageClip(Clip):
    """Frames and masks of files, resized. Without `mask_source` the masks are empty."""

    source: ImageFiles | VideoFile
    source_size: tuple[int, int]
    mask_source: ImageFiles | VideoFile | None
    one_mask: bool

    def frames(self) -> Iterator[np.ndarray]:
        for index, frame in enumerate(self.source.read(self.num_frames)):
            size = frame.shape[:2]
            if size != self.source_size:
                raise InputError(
                    f"{self.source.name(index)} is {_text(size)} and {self.source.name(0)} is "
                    f"{_text(self.source_size)}: give frames of one size."
                )
            yield resize(frame, self.height, self.width, Image.Resampling.BICUBIC)

    def masks(self) -> Iterator[np.ndarray]:
        if self.mask_source is None:
            yield from repeat(np.zeros((self.height, self.width), np.uint8), self.num_frames)
        elif self.one_mask:
            mask = next(iter(self.mask_source.read(1)))
            yield from repeat(self._fitted(mask, 0), self.num_frames)
        else:
            for index, mask in enumerate(self.mask_source.read(self.num_frames)):
                yield self._fitted(mask, index)

    def _fitted(self, mask: np.ndarray, index: int) -> np.ndarray:
        if mask.shape != (self.height, self.width):
            aspects = [size[1] / size[0] for size in (mask.shape, self.source_size)]
            if abs(aspects[0] / aspects[1] - 1) > ASPECT_TOLERANCE:
                raise InputError(
                    f"{self.mask_source.name(index)} is {_text(mask.shape)} and the frames are "
                    f"{_text(self.source_size)}: give masks of the frames' shape."
                )
        return resize(mask, self.height, self.width, Image.Resampling.NEAREST)


def _target_size(
    source: tuple[int, int], height: int | None, width: int | None, resize_ratio: float
) -> tuple[int, int]:
    source_height, source_width = source
    if height is None:
        height = source_height if width is None else source_height * width / source_width
    if width is None:
        width = source_width * height / source_height
    return max(1, round(height * resize_ratio)), max(1, round(width * resize_ratio))


def resize(image: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """An array [H, W] or [H, W, 3] at another size in pixels; the same array where it has that size
    already."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), method))


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} pixels (width x height)"
