"""Clips read from image or video files: matches the counts, sizes and masks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.clip import Clip
from experiments.data.masks import LOSSLESS, MIXED, HoleReader, check_threshold, common_storage
from experiments.data.outpaint import outpaint_clip, outpaint_scales
from propainter.errors import InputError
from propainter.io.images import IMAGE_SUFFIXES, LOSSLESS_THRESHOLD, LOSSY_THRESHOLD, is_lossless, list_images
from propainter.io.paths import expand_home
from propainter.io.video import inspect_video, is_lossless_video, iterate_video, probe_video
from propainter.io.video_format import VideoInfo
from propainter.io.video_scan import VideoScan, scan_video
from propainter.validation import above_0, check_number, check_whole

ASPECT_TOLERANCE = 0.01
"""How far the aspect ratios of masks and frames can be apart, as a share."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files in their order; `decode` turns one into an array."""

    paths: list[Path]
    decode: Callable[[Path], np.ndarray]

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def count(self, at_most: int | None = None) -> int:
        return len(self.paths[:at_most])

    def size(self) -> tuple[int, int] | None:
        """Return the first one's height and width; None without any."""
        first = next(self.read(1), None)
        return None if first is None else (first.shape[0], first.shape[1])

    def read(self, at_most: int | None = None) -> Iterator[np.ndarray]:
        return (self.decode(path) for path in self.paths[:at_most])


@dataclass(frozen=True)
class VideoFile:
    """The frames of a video file; `convert` turns an RGB frame into an array of the caller's choice.

    The other options are those of `iterate_video`.
    """

    path: Path
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray
    hdr: str = "tonemap"
    deinterlace: str = "auto"
    damaged: str = "refuse"

    def name(self, index: int) -> str:
        return f"frame {index} of {self.path}"

    def count(self, at_most: int | None = None) -> int:
        return self.scan(at_most).num_frames

    def size(self) -> tuple[int, int]:
        """Return the first frame's height and width, not converted to RGB: for HDR that takes seconds."""
        info = probe_video(self.path)
        return info.height, info.width

    def scan(self, at_most: int | None = None) -> VideoScan:
        return scan_video(self.path, at_most, self.damaged)

    def read(self, at_most: int | None = None) -> Iterator[np.ndarray]:
        options = {"hdr": self.hdr, "deinterlace": self.deinterlace, "damaged": self.damaged}
        return (self.convert(frame) for frame in iterate_video(self.path, at_most, **options))


def mask_files(path: str | Path, threshold: int | None = None, damaged: str = "refuse") -> ImageFiles | VideoFile:
    """Find masks in a folder of images, in one image for all frames, or in a video; see `HoleReader` of `threshold`.

    Raises:
        InputError: `path` does not exist.
    """
    path, reader = expand_home(path), HoleReader(threshold)
    if not path.exists():
        raise InputError(
            f"{path} does not exist, where masks (a folder, an image or a video) were expected: check data.masks."
        )
    if path.is_dir():
        return ImageFiles(list_images(path), reader.picture)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFiles([path], reader.picture)
    lossless = is_lossless_video(path)
    return VideoFile(
        path,
        convert=lambda frame: reader.hole(frame.max(axis=2), lossless, str(path)),
        hdr="codes",
        deinterlace="none",
        damaged=damaged,
    )


def stored_as(masks: ImageFiles | VideoFile) -> str:
    """Return how masks are stored: "lossless", "lossy" or "mixed"."""
    if isinstance(masks, VideoFile):
        return common_storage([is_lossless_video(masks.path)])
    return common_storage(map(is_lossless, masks.paths))


def file_clip(
    name: str,
    frames: ImageFiles | VideoFile,
    masks: str | Path | ImageFiles | None,
    fps: float,
    *,
    height: int | None = None,
    width: int | None = None,
    resize_ratio: float = 1.0,
    max_frames: int | None = None,
    outpaint: Mapping[str, float | None] | None = None,
    mask_threshold: int | None = None,
    truth: ImageFiles | None = None,
) -> Clip:
    """Match frames with masks and resize both, frames bicubically, masks by nearest neighbour.

    Args:
        masks: a folder of images or a video with one mask per frame, or one image for all frames; or images that are
            decoded to holes. Masks of another size are resized where their aspect ratio, or that of the frames as
            shown, agrees within 1%.
        fps: frames per second of the video that is written.
        height, width: the size to work at, in pixels; one alone keeps the aspect ratio.
        resize_ratio: multiplies that size.
        max_frames: takes the first frames only.
        outpaint: {"scale_h": 1.0, "scale_w": 1.2} to extend the picture, without masks.
        mask_threshold: 0 to 254; values above it are hole. None for 0 in lossless masks, as published, and 127 in
            JPEG and others whose compression leaves small values where there was black.
        truth: what is really behind the holes, an image for each frame.

    Raises:
        InputError: an option is missing or out of range, or frames, masks and truth do not match.
    """
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
            check_whole(f"data.{option}", value, least=1)
    check_number("data.resize_ratio", resize_ratio, above_0, "a number above 0")
    check_number("data.fps", fps, above_0, "a number of frames per second above 0")
    check_threshold(mask_threshold)

    mask_source: ImageFiles | VideoFile | None = masks if isinstance(masks, ImageFiles) else None
    if isinstance(masks, str | Path):
        mask_source = mask_files(masks, mask_threshold, getattr(frames, "damaged", "refuse"))
    mask_count = 1 if mask_source is None else mask_source.count()
    total = frames.count(max_frames if mask_count == 1 else None)
    if mask_count not in (1, total):
        raise InputError(
            f"{_place(masks)} holds {mask_count} masks for {total} frames: give one mask for all, or {total} masks."
        )
    if truth is not None:
        _check_truth(name, truth, frames, scales is not None)
    source_size = frames.size()
    if source_size is None:
        raise InputError(f"{name} has no frame: give a clip of at least two frames.")
    clip_height, clip_width = _target_size(source_size, height, width, resize_ratio)
    storage = None if mask_source is None else stored_as(mask_source)
    if mask_threshold is None and storage not in (None, MIXED):
        mask_threshold = LOSSLESS_THRESHOLD if storage == LOSSLESS else LOSSY_THRESHOLD
    clip = FileClip(
        name=name,
        num_frames=total if max_frames is None else min(total, max_frames),
        height=clip_height,
        width=clip_width,
        fps=float(fps),
        source=frames,
        source_size=source_size,
        mask_source=mask_source,
        one_mask=mask_count == 1,
        mask_storage=storage,
        mask_threshold=mask_threshold,
        truth_source=truth,
    )
    return clip if scales is None else outpaint_clip(clip, *scales)


@dataclass(frozen=True)
class FileClip(Clip):
    """Frames and masks of files, resized.

    Attributes:
        source_size: height and width of the frames before resizing.
        mask_source: None for empty masks.
        one_mask: whether its first mask is that of every frame.
        mask_storage: "lossless", "lossy" or "mixed"; None without masks.
        mask_threshold: values above it are hole; None where each file's storage decides, or without masks.
        truth_source: images of what is behind the holes; None where that is unknown.
    """

    source: ImageFiles | VideoFile
    source_size: tuple[int, int]
    mask_source: ImageFiles | VideoFile | None
    one_mask: bool
    mask_storage: str | None = None
    mask_threshold: int | None = None
    truth_source: ImageFiles | None = None

    def times(self) -> Sequence[Fraction] | None:
        return self.source.scan(self.num_frames).times if isinstance(self.source, VideoFile) else None

    def original(self) -> VideoInfo | None:
        if not isinstance(self.source, VideoFile):
            return None
        return inspect_video(self.source.path, self.num_frames, self.source.damaged)

    def frames(self) -> Iterator[np.ndarray]:
        yield from self._pictures(self.source)

    def truth(self) -> Iterator[np.ndarray] | None:
        return None if self.truth_source is None else self._pictures(self.truth_source)

    def _pictures(self, source: ImageFiles | VideoFile) -> Iterator[np.ndarray]:
        for index, frame in enumerate(source.read(self.num_frames)):
            size = frame.shape[:2]
            if size != self.source_size:
                raise InputError(
                    f"{source.name(index)} is {_text(size)} and {self.source.name(0)} is "
                    f"{_text(self.source_size)}: give frames of one size."
                )
            yield resize(frame, self.height, self.width, Image.Resampling.BICUBIC)

    def masks(self) -> Iterator[np.ndarray]:
        source = self.mask_source
        if source is None:
            yield from repeat(np.zeros((self.height, self.width), np.uint8), self.num_frames)
        elif self.one_mask:
            yield from repeat(self._fitted(next(source.read(1)), source.name(0)), self.num_frames)
        else:
            for index, mask in enumerate(source.read(self.num_frames)):
                yield self._fitted(mask, source.name(index))

    def _fitted(self, mask: np.ndarray, name: str) -> np.ndarray:
        if mask.shape != (self.height, self.width):
            stored = self.source_size[1] / self.source_size[0]
            aspect, original = mask.shape[1] / mask.shape[0], self.original()
            shown = stored if original is None else stored * float(original.sample_aspect_ratio)
            if all(abs(aspect / frames - 1) > ASPECT_TOLERANCE for frames in (stored, shown)):
                raise InputError(
                    f"{name} is {_text(mask.shape)} and the frames are "
                    f"{_text(self.source_size)}: give masks of the frames' shape."
                )
        return resize(mask, self.height, self.width, Image.Resampling.NEAREST)


def _place(masks: str | Path | ImageFiles | None) -> str:
    return str(masks.paths[0].parent) if isinstance(masks, ImageFiles) else str(masks)


def _check_truth(name: str, truth: ImageFiles, frames: ImageFiles | VideoFile, outpaints: bool) -> None:
    if outpaints:
        raise InputError(
            "data.truth is of no use with data.outpaint, whose hole no frame shows: leave one of them out."
        )
    if truth.count() != frames.count():
        raise InputError(
            f"{name} has {frames.count()} frames, and data.truth {truth.count()}: give one image of the truth for "
            "each frame."
        )


def _target_size(
    source: tuple[int, int], height: int | None, width: int | None, resize_ratio: float
) -> tuple[int, int]:
    source_height, source_width = source
    if height is not None and width is not None:
        scaled = float(height), float(width)
    elif height is not None:
        scaled = float(height), source_width * height / source_height
    elif width is not None:
        scaled = source_height * width / source_width, float(width)
    else:
        scaled = float(source_height), float(source_width)
    return max(1, round(scaled[0] * resize_ratio)), max(1, round(scaled[1] * resize_ratio))


def resize(image: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """Resize an array [H, W] or [H, W, 3] to a size in pixels; one of that size is returned itself."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), method))


def _text(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]} pixels (width x height)"
