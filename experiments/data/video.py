"""A clip from a video file."""

from pathlib import Path
from typing import Any

from experiments.data.clip import Clip
from experiments.data.file_clip import VideoFile, file_clip
from propainter.errors import InputError
from propainter.io.paths import expand_home
from propainter.io.video import probe_video


def video_clip(video: str | Path | None, masks: str | Path | None, **options: Any) -> Clip:
    """Return the clip of a video's frames at its own rate, with the holes in `masks`; `options` as in `file_clip`.

    Raises:
        InputError: the file is no complete video, an option is missing or out of range, or frames and masks do not
            match.
    """
    if video is None:
        raise InputError("data.video is missing: give the video's file, data.video=FILE.")
    path = expand_home(video)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, where a video file was expected: for images use data=folder data.frames=FOLDER."
        )
    return file_clip(path.stem, VideoFile(path), masks, float(probe_video(path).fps), **options)
