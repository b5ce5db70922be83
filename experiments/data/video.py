"""A clip from a video file."""

from pathlib import Path
from typing import Any

from experiments.data.clip import Clip
from experiments.data.file_clip import VideoFile, file_clip
from propainter.errors import InputError
from propainter.io.paths import expand_home
from propainter.io.video import DEINTERLACE_CHOICES, HDR_CHOICES
from propainter.io.video_stream import DAMAGED, check_choice
from propainter.validation import check_whole


def video_clip(
    video: str | Path | None,
    masks: str | Path | None,
    *,
    hdr: str = "tonemap",
    deinterlace: str = "auto",
    damaged: str = "refuse",
    max_frames: int | None = None,
    **options: Any,
) -> Clip:
    """Return the clip of a video's frames at their own times, with the holes in `masks`.

    `hdr`, `deinterlace` and `damaged` are as in `iterate_video`, the others as in `file_clip`.

    Raises:
        InputError: the file is no complete video, an option is missing or out of range, or frames and masks do not
            match.
    """
    check_choice("data.hdr", hdr, HDR_CHOICES)
    check_choice("data.deinterlace", deinterlace, DEINTERLACE_CHOICES)
    check_choice("data.damaged", damaged, DAMAGED)
    if max_frames is not None:
        check_whole("data.max_frames", max_frames, least=1)
    if video is None:
        raise InputError("data.video is missing: give the video's file, data.video=FILE.")
    path = expand_home(video)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, where a video file was expected: for images use data=folder data.frames=FOLDER."
        )
    file = VideoFile(path, hdr=hdr, deinterlace=deinterlace, damaged=damaged)
    return file_clip(path.stem, file, masks, float(file.scan(max_frames).fps), max_frames=max_frames, **options)
