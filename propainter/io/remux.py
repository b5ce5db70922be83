"""Give a video the other streams of the file that it was made from: audio, text subtitles, chapters, metadata."""

import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import merge
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream

from propainter.io.packets import PLAIN_MP4, copy_video, video_packets
from propainter.io.tracks import EncodedTrack, Track, copy_description, new_track
from propainter.io.video_stream import played_streams

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS)
_NOT_COPIED = {"major_brand", "minor_version", "compatible_brands", "encoder", "DURATION", "rotate"}

Timed = tuple[Fraction, int, Any]
"""Time in seconds from the written file's start, index of its stream, packet; sorted by time."""


class TrackError(Exception):
    """One stream of the source cannot be kept."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index, self.reason = index, reason


class CopyError(TrackError):
    """One audio stream of the source cannot be copied packet by packet."""


@dataclass
class Kept:
    """Say what came with the video.

    Attributes:
        audio, subtitles: one sentence for each track that was kept.
        chapters: how many.
        dropped: one sentence for each thing that was not.
    """

    audio: list[str] = field(default_factory=list)
    subtitles: list[str] = field(default_factory=list)
    chapters: int = 0
    dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tracks:
    """The other streams of a video file.

    Attributes:
        source: the file.
        start_s: when the first frame is shown, in seconds of the file's clock; None: when its video begins.
        kept: what `add_to` kept.
    """

    source: Path
    start_s: Fraction | None = None
    kept: Kept = field(default_factory=Kept)

    def add_to(self, video: Path, target: Path) -> None:
        """Write an mp4 with the packets of `video` and the tracks of the source, as far as the last frame is shown.

        Where the source's video ends with that frame too, its tracks are kept to their ends. Audio is copied packet by
        packet where MP4 takes it and players play it, else encoded again as AAC; text subtitles become mov_text. What
        cannot be kept is logged, in one warning, and stands in `kept.dropped`. Of a damaged track what can be decoded
        is kept.

        Raises:
            OSError, FFmpegError: the target cannot be written.
        """
        without: dict[int, str] = {}
        not_copied: dict[int, str] = {}
        while True:
            kept = Kept()
            try:
                with av.open(str(video)) as pictures, _opened(self.source) as source:
                    _Pass(pictures, source, target, self.start_s, without, not_copied, kept).run()
                break
            except CopyError as error:
                not_copied[error.index] = error.reason
            except TrackError as error:
                without[error.index] = error.reason
            except FFmpegError as error:
                if error.errno in _FULL:
                    raise
                kept = Kept(dropped=[f"anything but the pictures ({error.strerror})"])
                copy_video(video, target)
                break
        for name in ("audio", "subtitles", "chapters", "dropped"):
            setattr(self.kept, name, getattr(kept, name))
        if kept.dropped:
            log.warning("not all of %s can be kept: %s", self.source, "; ".join(kept.dropped))


class _Pass:
    """One try to write everything.

    Args:
        without: the streams of the source that are left out, by index, and why.
        not_copied: the audio streams that are encoded again though MP4 has their codec, by index, and why.
    """

    def __init__(
        self,
        pictures: InputContainer,
        source: InputContainer,
        target: Path,
        start_s: Fraction | None,
        without: dict[int, str],
        not_copied: dict[int, str],
        kept: Kept,
    ) -> None:
        self.pictures, self.source, self.target = pictures, source, target
        self.without, self.not_copied, self.kept = without, not_copied, kept
        self.video = main_video(source)
        self.start_s = start_s if start_s is not None else _start_s(self.video) if self.video else Fraction(0)
        self.tracks: dict[int, Track] = {}

    def run(self) -> None:
        with av.open(str(self.target), "w", format="mp4", options=PLAIN_MP4) as whole:
            shown = self.pictures.streams.video[0]
            video = whole.add_stream_from_template(shown)
            if self.video is not None:
                copy_description(self.video, video)
            for stream in self.source.streams:
                self._add(whole, stream)
            whole.metadata.update({k: v for k, v in self.source.metadata.items() if k not in _NOT_COPIED})
            duration_s = (shown.duration or 0) * (shown.time_base or 0)
            end_s = self.start_s + duration_s
            self.end_s = end_s if _goes_on(Path(self.source.name), end_s) else None
            # What begins before the video moves it: nothing begins before 0 but what a decoder needs and no one hears.
            starts = [max(_start_s(track.source), Fraction(0)) for track in self.tracks.values() if track.is_audio]
            self.zero_s = min([self.start_s, *starts])
            self._add_chapters(whole)
            for seconds, _, packet in merge(self._pictures(video), self._others(), key=lambda item: item[0]):
                self._mux(whole, packet, seconds)
        for track in self.tracks.values():
            if isinstance(track, EncodedTrack) and track.damaged:
                self.kept.dropped.append(f"{track.damaged} damaged packet(s) of {_name(track.source)}: silence instead")

    def _add(self, whole: OutputContainer, stream: Stream) -> None:
        if stream is self.video:
            return
        name = _name(stream)
        if stream.index in self.without:
            self.kept.dropped.append(f"{name} ({self.without[stream.index]})")
        elif (stream.type == "audio" and stream.codec_context is not None) or _is_text(stream):
            said = self.kept.audio if stream.type == "audio" else self.kept.subtitles
            try:
                track = new_track(whole, stream, self.not_copied.get(stream.index))
            except (FFmpegError, ValueError) as error:
                raise TrackError(stream.index, f"it can be neither copied nor converted: {error}") from error
            said.append(f"{name}: {track.how}")
            self.tracks[stream.index] = track
        elif not (stream.type == "data" and self.source.chapters() and stream.name == "bin_data"):  # MP4's chapters
            self.kept.dropped.append(f"{name} ({_why_not(stream)})")

    def _add_chapters(self, whole: OutputContainer) -> None:
        chapters: list[Any] = []
        for chapter in self.source.chapters():
            unit = chapter["time_base"] or Fraction(1)
            start, end = chapter["start"] * unit - self.zero_s, chapter["end"] * unit - self.zero_s
            if self.end_s is not None:
                end = min(end, self.end_s - self.zero_s)
            start = max(start, Fraction(0))
            if end > start:
                milliseconds = {"start": round(start * 1000), "end": round(end * 1000), "time_base": Fraction(1, 1000)}
                chapters.append({**chapter, **milliseconds})
        if chapters:
            whole.set_chapters(chapters)
        self.kept.chapters = len(chapters)

    def _pictures(self, video: Any) -> Iterator[Timed]:
        shift_s = self.start_s - self.zero_s
        for packet in video_packets(self.pictures):
            moved = _moved(packet, video, shift_s)
            yield moved.dts * moved.time_base, -1, moved

    def _others(self) -> Iterator[Timed]:
        if not self.tracks:
            return
        for packet in self._given():
            index = packet.stream.index  # stream_index is 0 of the packet that says that a stream ends
            track = self.tracks[index]
            time = packet.dts if packet.pts is None else packet.pts
            if packet.size and time is None:
                continue  # nothing says when it is to be heard
            if time is not None and self.end_s is not None and time * packet.time_base >= self.end_s:
                continue
            try:
                for made in track.packets(packet):
                    self._cut(made)
                    moved = _moved(made, track.target, -self.zero_s)
                    yield (moved.dts or 0) * moved.time_base, index, moved
            except (FFmpegError, ValueError) as error:
                raise TrackError(index, f"it is damaged: {error}") from error

    def _given(self) -> Iterator[Any]:
        """Yield the packets of the tracks, as far as the source can be read, and then one without a size for each."""
        packets: Iterator[Any] = self.source.demux([track.source for track in self.tracks.values()])
        ended = set()
        try:
            for packet in packets:
                if not packet.size:
                    ended.add(packet.stream.index)
                yield packet
        except FFmpegError as error:
            self.kept.dropped.append(f"what follows a damaged place in the file ({error.strerror})")
        for index in self.tracks.keys() - ended:
            end = av.Packet()
            end.stream = self.tracks[index].source
            yield end

    def _cut(self, packet: Any) -> None:
        """Let nothing last longer than the pictures that it goes with."""
        if self.end_s is not None and packet.duration and packet.pts is not None:
            left = int(self.end_s / packet.time_base) - packet.pts
            packet.duration = max(1, min(packet.duration, left))

    def _mux(self, whole: OutputContainer, packet: Any, seconds: Fraction) -> None:
        by_target = {track.target.index: index for index, track in self.tracks.items()}
        try:
            whole.mux(packet)
        except (FFmpegError, ValueError) as error:
            index = by_target.get(packet.stream_index)
            if index is None or getattr(error, "errno", None) in _FULL:
                raise
            track = self.tracks[index]
            kind = CopyError if track.is_audio and not isinstance(track, EncodedTrack) else TrackError
            reason = getattr(error, "strerror", None) or error
            raise kind(index, f"MP4 does not take it at {float(seconds):.2f} s: {reason}") from error


def stream_names(path: Path) -> list[str]:
    """Return kind, codec and language of each stream of a file."""
    with _opened(path) as container:
        return [_name(stream) for stream in container.streams]


def _opened(path: Path) -> InputContainer:
    """Open a file whose metadata may be in any encoding."""
    return av.open(str(path), metadata_errors="replace")


def main_video(container: InputContainer) -> Any:
    """Return the video stream that plays; None without any."""
    return next(iter(played_streams(container)), None)


def _goes_on(source: Path, end_s: Fraction) -> bool:
    """Return whether the source has pictures after this time."""
    with _opened(source) as container:
        video = main_video(container)
        if video is None:
            return False
        try:
            container.seek(int(end_s / video.time_base), stream=video)
            times = [packet.pts * packet.time_base for packet in container.demux(video) if packet.pts is not None]
        except FFmpegError:
            return True
        return any(seconds > end_s - Fraction(1, 1000) for seconds in times)


def _is_text(stream: Any) -> bool:
    context = stream.codec_context
    return stream.type == "subtitle" and context is not None and context.codec.text_sub


def _why_not(stream: Stream) -> str:
    if stream.type == "subtitle":
        return "MP4 has no subtitles that are pictures"
    if stream.type == "video":
        return "cover art" if stream.disposition & Disposition.attached_pic else "a further video stream"
    return "MP4 has no place for it"


def _name(stream: Stream) -> str:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else getattr(stream, "name", None) or "of unknown codec"
    language = f", {stream.language}" if stream.language else ""
    return f"stream {stream.index}: {stream.type} {codec}{language}"


def _start_s(stream: Any) -> Fraction:
    return Fraction((stream.start_time or 0) * stream.time_base)


def _moved(packet: Any, target: Stream, by_s: Fraction) -> Any:
    ticks = round(by_s / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks
    packet.stream = target
    return packet
