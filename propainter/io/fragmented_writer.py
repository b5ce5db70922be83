"""Write a video file that is playable at any time, also after the writing process was killed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from propainter.io.atomic import atomic_write
from propainter.io.packets import copy_packets, copy_video, video_packets
from propainter.io.video_format import VideoFormat
from propainter.io.video_writer import Complete, VideoWriter, libav_as_oserror

_FRAGMENTED = {
    "movflags": "+frag_keyframe+empty_moov+default_base_moof+frag_discont+skip_trailer+write_colr",
    "flush_packets": "1",
    "avoid_negative_ts": "disabled",  # it would move a later part to time 0
}


class FragmentedVideoWriter(VideoWriter):
    """Write as `VideoWriter` does, to the path `partial` until the video is complete.

    The partial file is a fragmented mp4, with one fragment and one key frame per second. After an error (Ctrl-C too) it
    ends properly and holds every frame written so far; without frames it is removed. After a kill its complete
    fragments are playable. At the end its packets are copied, not encoded again, to an ordinary mp4 under the final
    name.

    Args:
        path, video_format, times, complete: as of `VideoWriter`.
        keep_frames: how many frames of an earlier partial file are kept; `write` goes on after them. Where the earlier
            run had called `end_part` after so many frames, the final file is bit-equal to that of a run in one go.
        keep_partial: leave the partial file beside the final one.

    Attributes:
        partial: NAME.partial.mp4 in the folder of NAME.mp4.
    """

    def __init__(
        self,
        path: Path,
        video_format: VideoFormat,
        times: Sequence[Fraction] | None = None,
        complete: Complete | None = None,
        *,
        keep_frames: int = 0,
        keep_partial: bool = False,
    ) -> None:
        super().__init__(path, video_format, times, complete)
        self.partial = partial_path(self.path)
        self.keep_frames, self.keep_partial = keep_frames, keep_partial

    @contextmanager
    def _open(self) -> Iterator[None]:
        with libav_as_oserror(self.path):
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self._count = 0
            if self.keep_frames:
                self._keep()
            try:
                with self.partial.open("ab" if self._count else "wb") as self._file:
                    self._begin_part()
                    try:
                        yield
                        if not self._count:
                            raise ValueError(f"no frame was written to {self.path}")
                        self._close_part()
                    except BaseException:
                        with suppress(FFmpegError, OSError):
                            self._close_part()
                        raise
            except BaseException:
                if not self._count:
                    self.partial.unlink(missing_ok=True)
                raise
            with atomic_write(self.path) as temporary:
                (self._complete or copy_video)(self.partial, temporary)
            if not self.keep_partial:
                os.unlink(self.partial)

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        stream = super()._add_stream(container)
        # No B-frames: timestamps then begin at 0 in fragments too.
        stream.codec_context.max_b_frames = 0
        stream.codec_context.gop_size = max(1, round(self.fps))
        return stream

    def end_part(self) -> None:
        """Bring all frames so far to the disk, and begin anew with a key frame and an encoder that knows none of them.

        A writer that keeps so many frames of the file can go on from here.
        """
        if self._count > self._first:
            self._close_part()
            self._begin_part()

    def _begin_part(self) -> None:
        self._first = self._count
        self._output = _Fragments(self._file, skipping=self._first > 0)
        # Numbers of fragments must rise through the file. A part has at most one for each frame.
        options = {**_FRAGMENTED, "fragment_index": str(self._first + 1)}
        self._container = av.open(self._output, "w", format="mp4", options=options)
        self._stream = self._add_stream(self._container)
        self._container.start_encoding()
        self._output.skipping = False

    def _close_part(self) -> None:
        with self._container:
            if self._count > self._first:
                self._mux(None)
        self._file.flush()

    def _keep(self) -> None:
        """Replace the partial file by its first `keep_frames` frames, and count them as written."""
        if not self.partial.exists():
            raise ValueError(f"{self.partial} does not exist, and {self.keep_frames} frames of it were to be kept")
        with atomic_write(self.partial) as temporary, av.open(str(self.partial)) as earlier:
            with av.open(str(temporary), "w", format="mp4", options=_FRAGMENTED) as kept:
                count = copy_packets(earlier, kept, self.keep_frames)
            if count < self.keep_frames:
                raise ValueError(f"{self.partial} has {count} frames, and {self.keep_frames} of them were to be kept")
        self._count = self.keep_frames


class _Fragments:
    """Pass on to a file what libav writes; nothing while it is `skipping`, which leaves out a second header."""

    def __init__(self, file: IO[bytes], *, skipping: bool) -> None:
        self._file, self.skipping = file, skipping

    def write(self, content: bytes) -> int:
        return len(content) if self.skipping else self._file.write(content)


def partial_path(path: Path) -> Path:
    """Return the path of a video while it is incomplete."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def count_frames(partial: Path) -> int:
    """Return how many frames are complete in a partial file."""
    with av.open(str(partial)) as container:
        return sum(1 for _ in video_packets(container))
