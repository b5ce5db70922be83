"""Read videos by PyAV. Frames are uint8 RGB arrays [H, W, 3]."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from propainter.errors import InputError
from propainter.io.video_format import VideoInfo

av.logging.set_level(None)

DEFAULT_FPS = Fraction(24)


def probe_video(path: Path) -> VideoInfo:
    """Read a video's header and decode its first frame. Raise InputError as `iterate_video` does."""
    with _open_video(path) as (container, stream):
        frame = next((_upright(frame) for frame in container.decode(stream)), None)
        if frame is None:
            raise InputError(_cut_off(path, "no frame can be decoded"))
        fps = stream.average_rate or stream.guessed_rate or DEFAULT_FPS
        return VideoInfo(Fraction(fps), frame.shape[0], frame.shape[1], _announced_frames(container, stream))


def iterate_video(path: Path, max_frames: int | None = None) -> Iterator[np.ndarray]:
    """Yield the frames of a video, uint8 RGB [H, W, 3], turned by the file's rotation.

    Args:
        path: a video file.
        max_frames: stop after this many frames, without a check of the rest.

    Raises:
        InputError: the file is missing, has no video stream, or is truncated or damaged. A file is truncated when
            the decoder fails or the frames end before the header's count or duration.
    """
    with _open_video(path) as (container, stream):
        count, end_s = 0, 0.0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise InputError(_cut_off(path, "a frame of it is incomplete"))
            for frame in packet.decode():
                if max_frames is not None and count >= max_frames:
                    return
                yield _upright(frame)
                count += 1
                end_s = frame.time or end_s
        announced = _announced_frames(container, stream)
        if announced is not None and count < announced:
            raise InputError(_cut_off(path, f"it announces {announced} frames and {count} can be decoded"))
        duration_s = _announced_duration_s(stream)
        step_s = float(1 / (stream.average_rate or DEFAULT_FPS))
        if duration_s is not None and end_s + 2.5 * step_s < duration_s:
            raise InputError(_cut_off(path, f"it announces {duration_s:.2f} s and its frames end at {end_s:.2f} s"))


def is_lossless_video(path: Path) -> bool:
    """Return whether a video's codec always keeps values exactly, as FFV1 does. Raise InputError as `probe_video`."""
    kinds: Any = av.codec.Properties
    with _open_video(path) as (_, stream):
        properties = int(stream.codec_context.codec.properties)
    return bool(properties & kinds.LOSSLESS.value) and not properties & kinds.LOSSY.value


def _cut_off(path: Path, reason: str) -> str:
    return f"{path} is cut off or damaged ({reason}): give a complete video file, or read fewer frames of it."


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist, where a video file was expected: check the path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a video file was expected: give a file, or load it as images.")
    advice = "give a video file such as mp4, or a folder of images."
    try:
        container = av.open(str(path))
    except FFmpegError as error:
        raise InputError(f"{path} cannot be read as a video ({error.strerror}): {advice}") from error
    with container:
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams or container.format.name == "tty":
            raise InputError(f"{path} has no video stream: {advice}")
        streams[0].thread_type = "AUTO"
        try:
            yield container, streams[0]
        except FFmpegError as error:
            raise InputError(_cut_off(path, f"the decoder stops with: {error.strerror}")) from error


def _announced_frames(container: InputContainer, stream: VideoStream) -> int | None:
    if "mp4" in container.format.name and stream.frames and len(stream.index_entries):
        # A trimmed mp4 keeps the frames before its start in the file and marks them as not to be shown.
        return sum(not entry.is_discard for entry in stream.index_entries)
    return stream.frames or None


def _announced_duration_s(stream: VideoStream) -> float | None:
    """Return the stream's duration tag, which Matroska and WebM write ("00:00:01.667000000"), in seconds."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


def _upright(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))) if frame.rotation else image
