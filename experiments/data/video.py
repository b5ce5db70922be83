"""A clip from a video file."""

from collections.abc import Mapping
from pathlib import Path

from experiments.data.clip import Clip
from experiments.data.file_clip import VideoFile, file_clip
from propainter.errors import InputError
from propainter.io.video import probe_video


def video_clip(
    video: str | Path | None,
    masks: str | Path | None,
    height: int | None = None,
    width: int | None = None,
    resize_ratio: float = 1.0,
    max_frames: int | None = None,
    outpaint: Mapping[str, float | None] | None = None,
) -> Clip:
    """Return the clip of a video's frames at its own rate, with the holes in `masks`; options as in `folder_clip`.

    Raises:
        InputError: the file is no complete video, an option is missing or out of range, or frames and masks do not
            match.
    """
    if video is None:
        raise InputError("data.video is missing: give the video's file, data.video=FILE.")
    path = Path(video)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, where a video file was expected: for images use data=folder data.frames=FOLDER."
        )
    return file_clip(
        path.stem,
        VideoFile(path),
        masks,
        float(probe_video(path).fps),
        height=height,
        width=width,
        resize_ratio=resize_ratio,
        max_frames=max_frames,
        outpaint=outpaint,
    )
