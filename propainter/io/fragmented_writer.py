"""Write a video file that is playable at any time, also after the writing process was killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from propainter.io.atomic import atomic_write
from propainter.io.video_writer import VideoWriter, libav_as_oserror


class FragmentedVideoWriter(VideoWriter):
    """Write as `VideoWriter` does, to the path `partial` until the video is complete.

    The partial file is a fragmented mp4, with one fragment and one key frame per second. After an error (Ctrl-C too) it
    ends properly and holds every frame written so far; without frames it is removed. After a kill its complete
    fragments are playable. At the end its packets are copied, not encoded again, to an ordinary mp4 under the final
    name.

    Attributes:
        partial: NAME.partial.mp4 in the folder of NAME.mp4.
    """

    def __init__(self, path: Path, fps: float | Fraction, height: int, width: int) -> None:
        super().__init__(path, fps, height, width)
        self.partial = partial_path(self.path)

    @contextmanager
    def _open(self) -> Iterator[None]:
        with libav_as_oserror(self.path):
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            options = {"movflags": "+frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
            container = av.open(str(self.partial), "w", format="mp4", options=options)
            self._container, self._stream, self._count = container, self._add_stream(container), 0
            try:
                yield
                if not self._count:
                    raise ValueError(f"no frame was written to {self.path}")
                self._end()
            except BaseException:
                with suppress(FFmpegError):
                    self._end()
                if not self._count:
                    self.partial.unlink(missing_ok=True)
                raise
            _copy_packets(self.partial, self.path)
            os.unlink(self.partial)

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        stream = super()._add_stream(container)
        # No B-frames: timestamps then begin at 0 in fragments too.
        stream.codec_context.max_b_frames = 0
        stream.codec_context.gop_size = max(1, round(self.fps))
        return stream

    def _end(self) -> None:
        with self._container:
            if self._count:
                self._container.mux(self._stream.encode(None))


def partial_path(path: Path) -> Path:
    """Return the path of a video while it is incomplete."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _copy_packets(source: Path, target: Path) -> None:
    """Copy a video's packets into a plain mp4 with its index at the front."""
    with (
        atomic_write(target) as temporary,
        av.open(str(source)) as fragments,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as whole,
    ):
        stream = whole.add_stream_from_template(fragments.streams.video[0])
        for packet in fragments.demux(video=0):
            if packet.dts is not None:  # None marks the end
                packet.stream = stream
                whole.mux(packet)
