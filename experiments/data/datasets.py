"""Sets of videos with holes and truth: DAVIS and YouTube-VOS as papers use them, a tree of folders, drawn clips."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.clip import Clip
from experiments.data.file_clip import ImageFiles, file_clip, resize
from experiments.data.masks import HoleReader
from experiments.data.synthetic import synthetic_clip
from propainter.errors import InputError
from propainter.io.images import list_images, read_image
from propainter.io.paths import expand_home
from propainter.validation import check_whole

FRAMES = ("JPEGImages_432_240", "JPEGImages/480p", "JPEGImages", "frames")
"""Where a set's frames may be, in the order in which they are looked for: the released script's folder first."""

MASKS = ("test_masks", "masks")

SIZE = (240, 432)
"""Rows and columns of the published evaluation."""


Decode = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Videos to inpaint, in their order.

    Attributes:
        name: "davis", "youtube_vos", "folder" or "synthetic".
        videos: by name; a call returns the clip, with its truth. It raises InputError where the video is unusable.
        masks: how the holes came about, in a sentence.
    """

    name: str
    videos: Mapping[str, Callable[[], Clip]]
    masks: str


def davis(root: str | Path | None, frames: str | None = None, masks: str | None = None) -> Dataset:
    """Return the videos of DAVIS as the published evaluation has them, 240x432 pixels.

    The videos are the sorted folders of the masks. Frames are resized by OpenCV's bilinear filter, masks by nearest
    neighbour, and every mask above 0 is hole. The truth behind a hole is the frame itself.

    Args:
        root: folder of the set.
        frames, masks: folders in it; by default the first of `FRAMES` and `MASKS` that exists.

    Raises:
        InputError: `root` is missing, or has no such folder.
    """
    return _published("davis", root, frames, masks)


def youtube_vos(root: str | Path | None, frames: str | None = None, masks: str | None = None) -> Dataset:
    """Return the videos of YouTube-VOS; as `davis`."""
    return _published("youtube_vos", root, frames, masks)


def folder(
    root: str | Path | None,
    frames: str | None = None,
    masks: str | None = None,
    truth: str | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Dataset:
    """Return the videos of a tree of folders: ROOT/frames/VIDEO, ROOT/masks/VIDEO and perhaps ROOT/truth/VIDEO.

    Args:
        root: folder of the set.
        frames, masks: folders in it; see `davis`.
        truth: the folder of what is behind the holes. Default: `truth` where it exists, else the frames themselves
            (masks that were drawn over untouched frames).
        height, width: to which frames are resized, in pixels; None keeps their size.

    Raises:
        InputError: `root` is missing, or has no such folder.
    """
    home = _root("folder", root)
    frame_root, mask_root = _inside(home, frames, FRAMES, "frames"), _inside(home, masks, MASKS, "masks")
    truth_root = home / (truth or "truth")
    if truth is not None and not truth_root.is_dir():
        raise InputError(f"{home} has no folder {truth}, which is dataset.truth; give a folder in it, or null")
    size = None if height is None and width is None else (height, width)
    videos = {
        name: partial(
            _video, name, frame_root / name, mask_root / name, truth_root / name if truth_root.is_dir() else None, size
        )
        for name in _names(mask_root)
    }
    return Dataset("folder", videos, f"as stored in {mask_root.name}")


def synthetic(clips: int = 20, num_frames: int = 16, height: int = 240, width: int = 432) -> Dataset:
    """Return clips drawn from held-out photographs, with exact truth and flow (`synthetic_clip`).

    Args:
        clips: how many; clip n has the seed n.
        num_frames: of each.
        height, width: in pixels.

    Raises:
        InputError: a number is out of range.
    """
    check_whole("dataset.clips", clips, least=1)
    shape: dict[str, Any] = {"num_frames": num_frames, "height": height, "width": width}
    for name, value in shape.items():
        check_whole(f"dataset.{name}", value, least=2 if name == "num_frames" else 128)
    videos = {f"synthetic {seed}": partial(synthetic_clip, **shape, seed=seed) for seed in range(clips)}
    return Dataset("synthetic", videos, "drawn: an object in front of the background, or a published random mask")


def _published(name: str, root: str | Path | None, frames: str | None, masks: str | None) -> Dataset:
    home = _root(name, root)
    frame_root, mask_root = _inside(home, frames, FRAMES, "frames"), _inside(home, masks, MASKS, "masks")
    videos = {
        video: partial(_video, video, frame_root / video, mask_root / video, None, SIZE, threshold=0)
        for video in _names(mask_root)
    }
    return Dataset(name, videos, f"as stored in {mask_root.name}, above 0 is hole")


def _root(name: str, root: str | Path | None) -> Path:
    if root is None:
        raise InputError(f"dataset.root is missing: give the folder of the set, dataset={name} dataset.root=FOLDER")
    home = expand_home(root)
    if not home.is_dir():
        raise InputError(f"dataset.root is {root}, which is no folder; give the folder of the set")
    return home


def _inside(home: Path, given: str | None, usual: Sequence[str], what: str) -> Path:
    names = usual if given is None else (given,)
    found = next((home / name for name in names if (home / name).is_dir()), None)
    if found is None:
        raise InputError(
            f"{home} has no folder {' or '.join(names)}, where the {what} of the videos were expected, a folder each; "
            f"give dataset.{what}=NAME"
        )
    return found


def _names(masks: Path) -> list[str]:
    names = sorted(path.name for path in masks.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise InputError(f"{masks} holds no folder, where one of masks was expected for each video; check dataset.root")
    return names


def _video(
    name: str,
    frames: Path,
    masks: Path,
    truth: Path | None,
    size: tuple[int | None, int | None] | None,
    threshold: int | None = None,
) -> Clip:
    """Return one video; see `file_clip` of the threshold. With both sides of the size all images become as large.

    Raises:
        InputError: a folder is missing or empty, or there are fewer masks or images of the truth than frames.
    """
    height, width = size or (None, None)
    read_hole = HoleReader(threshold).picture
    read: tuple[Decode, Decode] = (read_image, read_hole)
    if height is not None and width is not None:
        fixed = (height, width)
        read = partial(_read_frame, size=fixed), partial(_read_hole, size=fixed, read=read_hole)
    images, holes = (ImageFiles(list_images(path), decode) for path, decode in zip((frames, masks), read, strict=True))
    behind = images if truth is None else ImageFiles(list_images(truth), read[0])
    return file_clip(name, images, holes, 24, height=height, width=width, mask_threshold=threshold, truth=behind)


def _read_frame(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read an image, resized by OpenCV's bilinear filter as in the released evaluation."""
    import cv2  # where a sweep's parent process must not wait for it

    image = read_image(path)
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def _read_hole(path: Path, size: tuple[int, int], read: Decode) -> np.ndarray:
    return resize(read(path), *size, Image.Resampling.NEAREST)
