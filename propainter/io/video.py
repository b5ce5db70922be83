"""Read and write videos by PyAV. Frames are uint8 RGB arrays [H, W, 3]."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from propainter.errors import InputError
from propainter.io.atomic import atomic_write

log = logging.getLogger(__name__)
av.logging.set_level(None)

ENCODERS = ("libx264", "mpeg4")
DEFAULT_FPS = Fraction(24)


@dataclass(frozen=True)
class VideoInfo:
    """Hold the header of a video.

    Attributes:
        fps: frames per second.
        height: of an upright frame, in pixels.
        width: of an upright frame, in pixels.
        num_frames: the container's number of frames; None without one, as in Matroska.
    """

    fps: Fraction
    height: int
    width: int
    num_frames: int | None


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


class VideoWriter:
    """Write an mp4 frame by frame, atomically: an error leaves no file.

        with VideoWriter(path, fps=24, height=240, width=432) as video:
            video.write(frame)

    The encoder is H.264 at high quality (crf 12). Without libx264 it is MPEG-4 part 2, with a warning. Pixels are
    yuv420p, which every player supports. With an odd side pixels are yuv444p, which keeps the size exact. Errors of
    libav, a full disk too, become OSError.

    Args:
        path: the file to write.
        fps: frames per second, above 0.
        height: of each frame, in pixels.
        width: of each frame, in pixels.

    Attributes:
        codec: name of the encoder.
    """

    def __init__(self, path: Path, fps: float | Fraction, height: int, width: int) -> None:
        self.path = Path(path)
        self.fps = Fraction(fps).limit_denominator(1001)
        if self.fps <= 0:
            raise ValueError(f"fps is {fps}, where a number above 0 was expected")
        self.height, self.width = height, width
        self.codec = next(name for name in ENCODERS if name in av.codecs_available)
        if self.codec != ENCODERS[0]:
            log.warning("%s is not available: %s is written with %s instead", ENCODERS[0], self.path, self.codec)

    def __enter__(self) -> "VideoWriter":
        self._session = self._open()
        self._session.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._session.__exit__(*error)

    @contextmanager
    def _open(self) -> Iterator[None]:
        with libav_as_oserror(self.path), atomic_write(self.path) as temporary:
            container = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
            try:
                self._container, self._stream, self._count = container, self._add_stream(container), 0
                yield
                if not self._count:
                    raise ValueError(f"no frame was written to {self.path}")
                container.mux(self._stream.encode(None))
                container.close()
            except BaseException:
                with suppress(FFmpegError):
                    container.close()
                raise

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        stream: Any = container.add_stream(self.codec, rate=self.fps)  # PyAV's stub: any kind of stream
        stream.width, stream.height = self.width, self.height
        if self.codec == "libx264":
            even = self.height % 2 == 0 and self.width % 2 == 0
            stream.pix_fmt = "yuv420p" if even else "yuv444p"
            stream.options = {"crf": "12"}
        else:
            stream.pix_fmt = "yuv420p"
            stream.options = {"flags": "+qscale", "global_quality": str(2 * 118)}
        return stream

    def write(self, frame: np.ndarray) -> None:
        """Append one uint8 RGB frame [H, W, 3]. Raise ValueError for another shape or dtype."""
        expected = (self.height, self.width, 3)
        if frame.shape != expected or frame.dtype != np.uint8:
            raise ValueError(f"got a frame {frame.dtype} {list(frame.shape)}, expected uint8 {list(expected)}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(picture))
        self._count += 1


@contextmanager
def libav_as_oserror(path: Path) -> Iterator[None]:
    """Raise an error of libav inside the block as OSError that names the path."""
    try:
        yield
    except FFmpegError as error:
        raise OSError(error.errno, f"cannot write the video: {error.strerror}", str(path)) from error
