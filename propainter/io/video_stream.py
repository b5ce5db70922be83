"""Open the video stream that plays, and decode it packet by packet."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from propainter.errors import InputError

av.logging.set_level(None)

DAMAGED = ("refuse", "keep")
KEEP_ADVICE = "give a complete video file, read fewer frames of it, or keep what can be read by data.damaged=keep."
NO_VIDEO_ADVICE = "give a complete video file such as mp4, or a folder of images."

READING_ERRORS = (FFmpegError, IndexError)
"""What PyAV raises for a damaged place; IndexError where streams appear that the header does not announce."""


def cut_off(path: Path, reason: str) -> str:
    """Return the sentence that refuses a damaged file."""
    return f"{path} is cut off or damaged ({reason}): {KEEP_ADVICE}"


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError where an option has none of its values."""
    if value not in choices:
        raise InputError(f"{name}={value} is unknown: give {' or '.join(choices)}.")


def played_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams, that which plays first; cover art and thumbnails are left out.

    The one that plays is FFmpeg's choice: https://ffmpeg.org/doxygen/trunk/group__lavf__decoding.html.
    """
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    best = container.streams.best("video")
    return sorted(streams, key=lambda stream: (stream != best, not stream.disposition & Disposition.default))


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file at the stream that plays.

    Raises:
        InputError: the file is missing, no video, or its decoder stops with an error inside the context.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist, where a video file was expected: check the path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a video file was expected: give a file, or load it as images.")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except FFmpegError as error:
        raise InputError(f"{path} cannot be read as a video ({error.strerror}): {NO_VIDEO_ADVICE}") from error
    with container:
        streams = played_streams(container)
        if not streams or container.format.name == "tty":
            raise InputError(f"{path} has no video stream: {NO_VIDEO_ADVICE}")
        streams[0].thread_type = "AUTO"
        try:
            yield container, streams[0]
        except FFmpegError as error:
            raise InputError(cut_off(path, f"the decoder stops with: {error.strerror}")) from error


class Decoder:
    """Decode the frames of a stream, skip packets that are damaged, and note what is.

    Attributes:
        codec: the decoder's name.
        last_duration: of the last packet in the file's order, in ticks; 0 where it says none.
        packet_times: of each packet that holds a frame, in ticks: of showing it, else of decoding it.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._damage: tuple[int | None, str] | None = None
        self.codec = stream.codec_context.name
        self.last_duration = 0
        self.packet_times: list[int] = []

    def damage_before(self, pts: int | None = None) -> str | None:
        """Return the first damage that was met, as part of a sentence; not that of a packet after `pts`."""
        if self._damage is None:
            return None
        where, reason = self._damage
        return None if pts is not None and where is not None and where > pts else reason

    def frames(self) -> Iterator[av.VideoFrame]:
        """Yield all frames that can be decoded."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except READING_ERRORS as error:
                self._note(None, f"reading stops with: {error}")
                yield from self._decoded(None)  # what the decoder still holds
                return
            if packet is None:
                return
            if packet.dts is not None:
                self.last_duration = packet.duration or 0
                if packet.size:
                    self.packet_times.append(packet.dts if packet.pts is None else packet.pts)
            if packet.is_corrupt:
                self._note(packet.pts, "a frame of it is incomplete")
                continue
            yield from self._decoded(packet)

    def _decoded(self, packet: av.Packet | None) -> Iterator[av.VideoFrame]:
        try:
            frames = self._stream.decode(packet)
        except EOFError:
            return
        except FFmpegError as error:
            self._note(None, f"the decoder stops with: {error.strerror}")
            return
        for frame in frames:
            if frame.is_corrupt:
                self._note(frame.pts, "a frame of it is damaged")
            yield frame

    def _note(self, pts: int | None, reason: str) -> None:
        self._damage = self._damage or (pts, reason)
