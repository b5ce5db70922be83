"""The record's `video`: what was read, and what was written."""

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

from experiments.data import Clip
from experiments.record import types
from propainter.io.remux import Kept, stream_names
from propainter.io.video_format import ColorTags
from propainter.io.video_writer import VideoWriter


def streams_of(clip: Clip) -> list[str]:
    """Return kind, codec and language of each stream of the clip's file; none where there is no file."""
    info = clip.original()
    return [] if info is None or info.path is None else stream_names(info.path)


def describe_video(
    clip: Clip, streams: list[str], writer: VideoWriter, frames: int, kept: Kept | None, outside: str
) -> types.Video:
    """Return the section of a result of `frames` frames that `writer` has written.

    Args:
        streams: from `streams_of`, before the run.
        outside: what is outside the hole.
    """
    return {"input": _read(clip, streams), "output": _written(writer, frames, kept or Kept(), outside)}


def _read(clip: Clip, streams: list[str]) -> types.VideoRead | None:
    info = clip.original()
    if info is None:
        return None
    times = clip.times()
    return {
        "file": None if info.path is None else info.path.name,
        "container": info.container,
        "codec": info.codec,
        "pix_fmt": info.pix_fmt,
        "width": info.width,
        "height": info.height,
        "fps": float(info.fps),
        "duration_s": _duration_s(times, info.num_frames, info.fps),
        "variable_rate": times is not None and not _constant(times, info.fps),
        "sample_aspect_ratio": _ratio(info.sample_aspect_ratio),
        "rotation": info.rotation,
        "color": _colors(info.color),
        "hdr": info.hdr,
        "interlaced": info.interlaced,
        "damage": info.damage,
        "streams": streams,
    }


def _written(writer: VideoWriter, frames: int, kept: Kept, outside: str) -> types.VideoWritten:
    bottom, right = writer.padded
    given = writer.format
    return {
        "file": writer.path.name,
        "codec": writer.codec,
        "pix_fmt": given.pix_fmt,
        "width": given.width + right,
        "height": given.height + bottom,
        "padded_right": right,
        "padded_bottom": bottom,
        "fps": float(writer.fps),
        "duration_s": float(writer.duration_s),
        "frames": frames,
        "sample_aspect_ratio": _ratio(given.sample_aspect_ratio),
        "color": _colors(given.color),
        "audio": kept.audio,
        "subtitles": kept.subtitles,
        "chapters": kept.chapters,
        "dropped": kept.dropped,
        "outside": outside,
    }


def _duration_s(times: Sequence[Fraction] | None, num_frames: int | None, fps: Fraction) -> float | None:
    if times is not None:
        return float(times[-1] - times[0])
    return None if num_frames is None else float(num_frames / fps)


def _constant(times: Sequence[Fraction], fps: Fraction) -> bool:
    """Return whether frames are as far apart as `fps` says, but for rounding to milliseconds."""
    return all(abs(time - times[0] - index / fps) <= Fraction(1, 1000) for index, time in enumerate(times[:-1]))


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}:{value.denominator}"


def _colors(color: ColorTags) -> types.Colors:
    return cast(types.Colors, vars(color))
