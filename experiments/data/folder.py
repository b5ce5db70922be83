"""A clip from a folder of images."""

from collections.abc import Mapping
from pathlib import Path

from experiments.data.clip import Clip
from experiments.data.file_clip import ImageFiles, file_clip
from propainter.errors import InputError
from propainter.io.images import IMAGE_SUFFIXES, list_images, read_image


def folder_clip(
    frames: str | Path | None,
    masks: str | Path | None,
    height: int | None = None,
    width: int | None = None,
    resize_ratio: float = 1.0,
    max_frames: int | None = None,
    fps: float = 24,
    outpaint: Mapping[str, float | None] | None = None,
) -> Clip:
    """Return the clip of a folder's images in natural order, with the holes in `masks`.

    Frames are resized bicubically, masks by nearest neighbour.

    Args:
        masks: a folder of images or a video with one mask per frame, or one image for all frames. In images every value
            but zero is hole, in videos values above 127. Masks of another size are resized where their aspect ratio
            agrees within 1%.
        height, width: the size to work at, in pixels; one alone keeps the aspect ratio.
        resize_ratio: multiplies that size.
        max_frames: takes the first frames only.
        fps: frames per second of the video that is written.
        outpaint: {"scale_h": 1.0, "scale_w": 1.2} to extend the picture, without masks.

    Raises:
        InputError: an option is missing or out of range, or frames and masks do not match.
    """
    if frames is None:
        raise InputError("data.frames is missing: give the folder of the frames, data.frames=FOLDER.")
    folder = Path(frames)
    if folder.is_file() and folder.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(
            f"{folder} is a file, where a folder of images was expected: for a video use data=video data.video=FILE."
        )
    return file_clip(
        folder.resolve().name,
        ImageFiles(list_images(folder), read_image),
        masks,
        fps,
        height=height,
        width=width,
        resize_ratio=resize_ratio,
        max_frames=max_frames,
        outpaint=outpaint,
    )
