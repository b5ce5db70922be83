"""The streams that come with a video, each copied packet by packet or converted to what MP4 takes."""

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.stream import Stream

NOT_PLAYED = ("pcm_", "vorbis")
"""How the names of audio codecs begin that MP4 takes and browsers and phones don't play in it."""

BITS_PER_CHANNEL_AND_S = 96_000
"""Of audio that is encoded again."""

LONGEST_SHIFT_S = 0.04
"""Audio that is encoded again is moved where it would be heard more than so far from its time: the eye sees 45 ms
(https://www.itu.int/rec/R-REC-BT.1359)."""

_USUAL_LAYOUTS = {
    "1 channels": "mono",
    "2 channels": "stereo",
    "3 channels": "3.0",
    "4 channels": "4.0",
    "5 channels": "5.0(side)",
    "6 channels": "5.1(side)",
    "8 channels": "7.1",
}

_STREAM_METADATA = ("language", "title", "handler_name")


@dataclass
class Track:
    """A stream of the source and the one that it becomes.

    Attributes:
        how: it is kept, in words.
    """

    source: Stream
    target: Stream
    how: str

    @property
    def is_audio(self) -> bool:
        return self.source.type == "audio"

    def packets(self, packet: Any) -> Iterator[Any]:
        """Yield what becomes of a packet of the source, in the source's clock; one without a size is the end."""
        if packet.size:
            yield packet


@dataclass
class EncodedTrack(Track):
    """Audio that is encoded again. Silence fills the places where the source has no sound, or damaged sound."""

    damaged: int = 0
    format: tuple[Any, ...] = ()
    graph: Graph | None = None

    def packets(self, packet: Any) -> Iterator[Any]:
        encoder: Any = self.target.codec_context
        try:
            frames = packet.decode()
        except FFmpegError:
            self.damaged += 1
            frames = []
        for frame in frames:
            for filled in self._filled(frame):
                yield from encoder.encode(filled)
        if not packet.size:
            if self.graph is None and self.damaged:
                raise ValueError("none of its packets can be decoded")
            for filled in self._filled(None):
                yield from encoder.encode(filled)
            yield from encoder.encode(None)

    def _filled(self, frame: Any) -> Iterator[Any]:
        """Yield audio with each sample where the times say; None is the end."""
        read_as = () if frame is None else (frame.sample_rate, frame.format.name, frame.layout.name)
        if self.graph is not None and read_as != self.format:
            yield from _through(self.graph, None)
            self.graph = None
        if frame is None:
            return
        if self.graph is None:
            self.format, self.graph = read_as, _filling(frame, self.target)
        yield from _through(self.graph, frame)


def _filling(frame: Any, target: Any) -> Graph:
    """Return a graph that fills gaps of frames like this one: https://ffmpeg.org/ffmpeg-filters.html#aresample-1."""
    graph = Graph()
    rate, layout = frame.sample_rate, frame.layout
    encoder = target.codec_context
    graph.link_nodes(
        graph.add_abuffer(sample_rate=rate, format=frame.format, layout=layout, time_base=frame.time_base),
        graph.add("aresample", f"async=1:min_hard_comp={LONGEST_SHIFT_S}"),
        graph.add(
            "aformat", f"sample_fmts=fltp:sample_rates={encoder.sample_rate}:channel_layouts={encoder.layout.name}"
        ),
        graph.add("abuffersink"),
    ).configure()
    return graph


def _through(graph: Graph, frame: Any) -> Iterator[Any]:
    """Yield what a graph gives after one more frame; None is the end."""
    graph.push(frame)
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield graph.pull()


class TextTrack(Track):
    def packets(self, packet: Any) -> Iterator[Any]:
        decoder: Any = self.source.codec_context
        encoder: Any = self.target.codec_context
        subtitle = decoder.decode2(packet) if packet.size else None
        if subtitle is not None and len(subtitle):
            made = encoder.encode_subtitle(subtitle)
            made.pts = made.dts = packet.pts
            made.duration, made.time_base = packet.duration, packet.time_base
            yield made


def new_track(whole: OutputContainer, stream: Stream, not_copied: str | None) -> Track:
    if stream.type == "subtitle":
        return _as_mov_text(whole, stream)
    if not_copied is None and _mp4_takes(stream):
        return _copied(whole, stream)
    track = _encoded(whole, stream)
    return track if not_copied is None else replace(track, how=f"{track.how}, since {not_copied}")


def _copied(whole: OutputContainer, stream: Stream) -> Track:
    target = whole.add_stream_from_template(stream)
    copy_description(stream, target)
    return Track(stream, target, "copied")


def _encoded(whole: OutputContainer, stream: Any) -> Track:
    layout, rate = _aac_takes(stream)
    target: Any = whole.add_stream("aac", rate=rate)
    target.layout = layout
    target.bit_rate = BITS_PER_CHANNEL_AND_S * target.channels
    copy_description(stream, target)
    change = "" if layout == _layout(stream) else f", {_layout(stream)} mixed to {layout}"
    return EncodedTrack(stream, target, f"encoded again as AAC{change}")


def _aac_takes(stream: Any) -> tuple[str, int]:
    """Return the layout and the rate in Hz, of the stream if the encoder takes them."""
    wanted = [(_layout(stream), stream.rate), (_layout(stream), 48_000), ("stereo", stream.rate)]
    for layout, rate in wanted:
        trial: Any = av.CodecContext.create("aac", "w")
        try:
            trial.layout, trial.sample_rate, trial.format = layout, rate, "fltp"
            trial.open()
        except (FFmpegError, ValueError):
            continue
        return layout, rate
    return "stereo", 48_000


def _layout(stream: Any) -> str:
    """Return the name of the channels' layout; the usual one for their number where the file does not say."""
    return _USUAL_LAYOUTS.get(stream.layout.name, stream.layout.name)


def _as_mov_text(whole: OutputContainer, stream: Any) -> Track:
    target: Any = whole.add_stream("mov_text")
    stream.codec_context.open(strict=False)
    target.codec_context.subtitle_header = stream.codec_context.subtitle_header or _ASS_HEADER
    target.time_base = target.codec_context.time_base = Fraction(1, 1000)
    copy_description(stream, target)
    return TextTrack(stream, target, "copied" if stream.codec_context.name == "mov_text" else "as mov_text")


_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def copy_description(stream: Stream, target: Stream) -> None:
    target.metadata.update({key: stream.metadata[key] for key in _STREAM_METADATA if key in stream.metadata})
    if "title" in stream.metadata:  # MP4 has no other place for a track's title
        target.metadata["handler_name"] = stream.metadata["title"]
    target.disposition = stream.disposition


def _mp4_takes(stream: Any) -> bool:
    """Return whether MP4 holds the codec, found by writing a header, and players play it there."""
    if stream.codec_context.name.startswith(NOT_PLAYED):
        return False
    with io.BytesIO() as nowhere:
        try:
            with av.open(nowhere, "w", format="mp4") as trial:
                trial.add_stream_from_template(stream)
                trial.start_encoding()
        except (FFmpegError, ValueError):
            return False
    return True
