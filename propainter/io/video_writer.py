"""Write videos by PyAV. Frames are uint8 RGB arrays [H, W, 3]."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from propainter.errors import InputError
from propainter.io.atomic import atomic_write
from propainter.io.packets import PLAIN_MP4
from propainter.io.video_format import ColorTags, VideoFormat

log = logging.getLogger(__name__)

ENCODERS = ("libx264", "mpeg4")

THREADS = 4
"""Of the encoder: H.264's bits depend on their number, and a video must not depend on the machine."""

MATRICES: dict[str, int] = {
    "bt709": Colorspace.ITU709,
    "fcc": Colorspace.FCC,
    "bt470bg": Colorspace.ITU601,
    "smpte170m": Colorspace.ITU601,
    "smpte240m": Colorspace.SMPTE240M,
    "bt2020nc": 9,  # Colorspace.BT2020, which PyAV 17 has no name for
}
"""The matrices that swscale converts RGB by. A frame without a tag is converted by that of BT.601, as on reading."""

_RANGES = {"tv": ColorRange.MPEG, "pc": ColorRange.JPEG}
# Averages of two columns and lines as colours; of swscale's ways nearest to what was read, by a comparison of all.
_ACCURATE_RND, _FULL_CHR_H_INP, _BITEXACT = 0x40000, 0x4000, 0x80000  # libswscale's, which PyAV 17 has no names for
_EXACT = int(Interpolation.AREA) | _ACCURATE_RND | _FULL_CHR_H_INP | _BITEXACT

Complete = Callable[[Path, Path], object]
"""Make the final file, the second path, of a file with the video alone, the first."""


class VideoWriter:
    """Write an mp4 frame by frame, atomically: an error leaves no file.

        with VideoWriter(path, VideoFormat(Fraction(24), height=240, width=432)) as video:
            video.write(frame)

    The encoder is H.264 at high quality (crf 12). Without libx264 it is MPEG-4 part 2, with a warning. Where the pixel
    format shares colours between two columns or lines, and there is an odd number of them, the last one is written
    twice, with a warning. Errors of libav, a full disk too, become OSError.

    Args:
        path: the file to write.
        video_format: colours are converted by its matrix and range, and all that it says stands in the file.
        times: of each frame, and of the last one's end, in seconds; the first becomes 0. None: a constant rate.
        complete: makes the final file from one with the video alone, as `remux.Tracks.add_to` does.

    Attributes:
        codec: name of the encoder.
        padded: how many lines are written twice, and how many columns; 0 or 1.

    Raises:
        InputError: the encoder does not take the pixel format.
    """

    def __init__(
        self,
        path: Path,
        video_format: VideoFormat,
        times: Sequence[Fraction] | None = None,
        complete: Complete | None = None,
    ) -> None:
        self.path = Path(path)
        self.format = video_format
        if video_format.fps <= 0:
            raise ValueError(f"fps is {video_format.fps}, where a number above 0 was expected")
        self.codec = available_encoder()
        if self.codec != ENCODERS[0]:
            log.warning("%s is not available: %s is written with %s instead", ENCODERS[0], self.path, self.codec)
        check_pix_fmt(video_format.pix_fmt, self.codec)
        self.padded = padding(video_format)
        if any(self.padded):
            log.warning("%s", padding_text(video_format))
        self.fps = Fraction(video_format.fps).limit_denominator(1001)
        self.time_base = 1 / self.fps if times is None else _time_base(times, 60_000 if self.codec == "mpeg4" else None)
        self._ticks = None if times is None else [round((time - times[0]) / self.time_base) for time in times]
        self._durations = {} if self._ticks is None else {a: b - a for a, b in pairwise(self._ticks)}
        self._complete = complete
        self._reformatter = VideoReformatter()

    def __enter__(self) -> "VideoWriter":
        self._session = self._open()
        self._session.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._session.__exit__(*error)

    @contextmanager
    def _open(self) -> Iterator[None]:
        with libav_as_oserror(self.path), atomic_write(self.path) as temporary:
            if self._complete is None:
                with self._written(temporary):
                    yield
            else:
                video = temporary.with_name(f"{temporary.stem}.video.mp4")
                try:
                    with self._written(video):
                        yield
                    self._complete(video, temporary)
                finally:
                    video.unlink(missing_ok=True)

    @contextmanager
    def _written(self, path: Path) -> Iterator[None]:
        container = av.open(str(path), "w", format="mp4", options=PLAIN_MP4)
        try:
            self._container, self._stream, self._count = container, self._add_stream(container), 0
            yield
            if not self._count:
                raise ValueError(f"no frame was written to {self.path}")
            self._mux(None)
            container.close()
        except BaseException:
            with suppress(FFmpegError):
                container.close()
            raise

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        stream: Any = container.add_stream(self.codec, rate=self.fps)  # PyAV's stub: any kind of stream
        more_lines, more_columns = self.padded
        stream.width, stream.height = self.format.width + more_columns, self.format.height + more_lines
        stream.pix_fmt = self.format.pix_fmt
        stream.time_base = stream.codec_context.time_base = self.time_base
        stream.thread_count = THREADS
        if self._ticks is not None:
            stream.max_b_frames = 0  # with them MP4 gives the last frame the length of another one
        stream.sample_aspect_ratio = self.format.sample_aspect_ratio
        quality = {"crf": "12"} if self.codec == "libx264" else {"flags": "+qscale", "global_quality": str(2 * 118)}
        stream.options = {**quality, **_tags(self.format.color)}
        return stream

    @property
    def duration_s(self) -> Fraction:
        """Seconds that the frames so far are shown."""
        ticks = self._count if self._ticks is None else self._ticks[self._count]
        return ticks * self.time_base

    def write(self, frame: np.ndarray) -> None:
        """Append one uint8 RGB frame [H, W, 3]. Raise ValueError for another shape or dtype."""
        expected = (self.format.height, self.format.width, 3)
        if frame.shape != expected or frame.dtype != np.uint8:
            raise ValueError(f"got a frame {frame.dtype} {list(frame.shape)}, expected uint8 {list(expected)}")
        if any(self.padded):
            frame = np.pad(frame, ((0, self.padded[0]), (0, self.padded[1]), (0, 0)), mode="edge")
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        matrix = MATRICES[self.format.matrix or self.format.color.matrix or "smpte170m"]
        if matrix == MATRICES["bt2020nc"]:
            rgb.colorspace = matrix
        picture = self._reformatter.reformat(
            rgb,
            format=self.format.pix_fmt,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=_RANGES[self.format.color.range or "tv"],
            interpolation=_EXACT,
        )
        picture.pts = self._count if self._ticks is None else self._ticks[self._count]
        picture.time_base = self.time_base
        self._mux(picture)
        self._count += 1

    def _mux(self, picture: av.VideoFrame | None) -> None:
        """Encode a picture, or what the encoder still holds."""
        for packet in self._stream.encode(picture):
            packet.duration = 1 if packet.pts is None else self._durations.get(packet.pts, 1)
            self._container.mux(packet)


def available_encoder() -> str:
    """Return the name of the first of `ENCODERS` that there is."""
    return next(name for name in ENCODERS if name in av.codecs_available)


def check_pix_fmt(pix_fmt: str, encoder: str | None = None) -> None:
    """Raise InputError where the encoder, by default the available one, does not take the pixel format."""
    encoder = encoder or available_encoder()
    taken = [item.name for item in av.Codec(encoder, "w").video_formats or ()]
    if pix_fmt not in taken:
        raise InputError(
            f"output.pix_fmt is {pix_fmt}, which the encoder {encoder} does not take: choose one of {', '.join(taken)}."
        )


def padding(video_format: VideoFormat) -> tuple[int, int]:
    """Return how many lines and how many columns the pixel format wants beyond the frame's own, 0 or 1 each."""
    color = av.VideoFormat(video_format.pix_fmt, 16, 16)
    return -video_format.height % (16 // color.chroma_height(16)), -video_format.width % (16 // color.chroma_width(16))


def padding_text(video_format: VideoFormat) -> str:
    """Return one sentence on the lines and columns that are written twice."""
    lines, columns = padding(video_format)
    what = " and ".join(["the last line"] * lines + ["the last column"] * columns)
    width, height = video_format.width, video_format.height
    return (
        f"{width}x{height} pixels are written as {width + columns}x{height + lines}, with {what} twice, since "
        f"{video_format.pix_fmt} needs even sides; output.pix_fmt=yuv444p keeps the size, and fewer players show it"
    )


def _tags(color: ColorTags) -> dict[str, str]:
    tags = {
        "colorspace": color.matrix,
        "color_range": color.range,
        "color_primaries": color.primaries,
        "color_trc": color.transfer,
    }
    return {name: value for name, value in tags.items() if value is not None}


def _time_base(times: Sequence[Fraction], finest: int | None = None) -> Fraction:
    """Return the coarsest unit in which all times are whole; 1/90000 s where that is finer than a microsecond."""
    unit = math.lcm(*((time - times[0]).denominator for time in times))
    return Fraction(1, unit if unit <= (finest or 1_000_000) else finest or 90_000)


@contextmanager
def libav_as_oserror(path: Path) -> Iterator[None]:
    """Raise an error of libav inside the block as OSError that names the path."""
    try:
        yield
    except FFmpegError as error:
        raise OSError(error.errno, f"cannot write the video: {error.strerror}", str(path)) from error
