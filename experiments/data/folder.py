"""A clip from a folder of images."""

from collections.abc import Mapping
from pathlib import Path

from experiments.data.clip import Clip
from experiments.data.file_clip import ImageFiles, footage_clip
from propainter.errors import InputError
from propainter.io.video import IMAGE_SUFFIXES, list_images, read_image


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
    """The images of the folder `frames` in natural order, with the holes in `masks`.

    `masks` is a folder of images or a video with as many masks as there are frames, or one image for all of
    them; in images every value but zero is hole, in videos values above 127 are. Masks of another size are
    fitted to the frames where their shapes agree within 1%.

    `height` and `width` are the size in pixels to work at (one alone keeps the shape), then multiplied by
    `resize_ratio`; frames are resized bicubically, masks by nearest neighbour. `max_frames` takes the first
    frames only; `fps` is frames per second, for the video that is written. `outpaint` is {"scale_h": 1.0,
    "scale_w": 1.2} to extend the picture, without masks. Raises InputError for whatever does not fit
    together.
    """
    if frames is None:
        raise InputError("data.frames is missing: give the folder of the frames, data.frames=FOLDER.")
    folder = Path(frames)
    if folder.is_file() and folder.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(
            f"{folder} is a file, where a folder of images was expected: for a video use data=video data.video=FILE."
        )
    return footage_clip(
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
