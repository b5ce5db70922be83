"""Write videos by PyAV. Frames are uint8 RGB arrays [H, W, 3]."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from propainter.io.atomic import atomic_write

log = logging.getLogger(__name__)

ENCODERS = ("libx264", "mpeg4")


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
