"""A clip from a folder of images."""

from pathlib import Path
from typing import Any

from experiments.data.clip import Clip
from experiments.data.file_clip import ImageFiles, file_clip
from propainter.errors import InputError
from propainter.io.images import IMAGE_SUFFIXES, list_images, read_image
from propainter.io.paths import expand_home


def folder_clip(
    frames: str | Path | None,
    masks: str | Path | None,
    fps: float = 24,
    truth: str | Path | None = None,
    **options: Any,
) -> Clip:
    """Return the clip of a folder's images in natural order, with the holes in `masks`; `options` as in `file_clip`.

    Args:
        truth: a folder of as many images of what is really behind the holes.

    Raises:
        InputError: an option is missing or out of range, or frames, masks and truth do not match.
    """
    if frames is None:
        raise InputError("data.frames is missing: give the folder of the frames, data.frames=FOLDER.")
    folder = expand_home(frames)
    if folder.is_file() and folder.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(
            f"{folder} is a file, where a folder of images was expected: for a video use data=video data.video=FILE."
        )
    behind = None if truth is None else ImageFiles(list_images(expand_home(truth)), read_image)
    images = ImageFiles(list_images(folder), read_image)
    return file_clip(folder.resolve().name, images, masks, fps, truth=behind, **options)
