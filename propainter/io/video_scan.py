"""Decode a video once without converting its frames: how many there are, when each is shown, and what is damaged."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.video.stream import VideoStream

from propainter.errors import InputError
from propainter.io.container_end import missing_bytes
from propainter.io.video_stream import (
    DAMAGED,
    READING_ERRORS,
    Decoder,
    check_choice,
    cut_off,
    open_video,
    played_streams,
)

log = logging.getLogger(__name__)

DEFAULT_FPS = Fraction(24)
"""The rate where a file says none."""

PROGRESS_S = 10
"""Seconds from one line of progress to the next."""

_BOTTOM_FIRST = (3, 4)
"""AVFieldOrder of frames whose bottom field is shown first; 2 to 5 are interlaced."""

_SELF_TOLD = ("h264", "hevc", "mpeg1video", "mpeg2video", "vc1", "wmv3", "prores", "dvvideo")
"""Codecs whose decoders say of each frame whether it is interlaced."""


@dataclass(frozen=True)
class VideoScan:
    """Hold what decoding a whole video, or its first frames, has shown.

    Attributes:
        stamps: each frame's time and the end of the last one, in seconds of the file's clock, strictly increasing.
        tick_s: the unit in which the file stores times.
        rates: frames per second, as the header says in several ways, the likeliest first.
        interlaced: whether any frame consists of two fields of different times.
        field_order: "tff" or "bff" where only the header tells that frames are interlaced; else None.
        damage: what is damaged, as part of a sentence; None where nothing is.
    """

    stamps: tuple[Fraction, ...]
    tick_s: Fraction
    rates: tuple[Fraction, ...]
    interlaced: bool
    field_order: str | None
    damage: str | None

    @property
    def num_frames(self) -> int:
        return len(self.stamps) - 1

    @property
    def constant_fps(self) -> Fraction | None:
        """The header's rate by which all frames follow each other, up to the rounding of times; None without one."""
        return next((fps for fps in self.rates if is_constant(self.stamps, fps, self.tick_s)), None)

    @property
    def fps(self) -> Fraction:
        """Frames per second: the header's where the rate is constant, else the mean."""
        constant = self.constant_fps
        if constant is not None:
            return constant
        return (self.num_frames / (self.stamps[-1] - self.stamps[0])).limit_denominator(100_000)

    @property
    def times(self) -> tuple[Fraction, ...] | None:
        """The stamps; None where frames follow each other at the constant rate `fps`, from 0 on."""
        return None if self.constant_fps is not None and abs(self.stamps[0]) <= self.tick_s / 2 else self.stamps

    def first(self, count: int | None) -> "VideoScan":
        """Return the scan of the first frames."""
        return self if count is None else replace(self, stamps=self.stamps[: count + 1])


def is_constant(stamps: Sequence[Fraction], fps: Fraction, tick_s: Fraction) -> bool:
    """Return whether frames follow each other at a rate, up to the rounding of times to ticks.

    A frame's time may be one tick off. The end of the last may be two: its duration is rounded too.
    """
    off_s = [abs(stamp - stamps[0] - index / fps) for index, stamp in enumerate(stamps)]
    return max(off_s[:-1], default=0) <= tick_s and off_s[-1] <= 2 * tick_s


def increasing(
    stamps: Sequence[Fraction | None], step: Fraction, start: Fraction = Fraction(0)
) -> tuple[list[Fraction], int]:
    """Return strictly increasing times, and how many had to be made up.

    A time that is missing, or not after the ones before it, is put evenly between its neighbours; at the end, and
    where all are missing, times are `step` apart.
    """
    repaired: list[Fraction] = []
    gap = made_up = 0
    for stamp in stamps:
        if stamp is None or (repaired and stamp <= repaired[-1]):
            gap += 1
            continue
        made_up += gap
        if repaired:
            last = repaired[-1]
            repaired += [last + (stamp - last) * k / (gap + 1) for k in range(1, gap + 1)]
        else:
            repaired += [stamp - step * k for k in range(gap, 0, -1)]
        repaired.append(stamp)
        gap = 0
    made_up += gap
    if gap and not repaired:
        repaired, gap = [start], gap - 1
    return repaired + [repaired[-1] + step * k for k in range(1, gap + 1)], made_up


_INDEXED = ("avi", "mov,mp4")
"""Containers whose index names each packet."""

_TIMED = ("flv", "asf")
"""Containers that announce their duration and no length in bytes."""

_TIMED_TOLERANCE_S = Fraction(1, 4)

_scans: dict[tuple[object, ...], VideoScan] = {}
"""By file, size, time of its last change and number of frames; None for a scan that reached the end."""

_warned: set[tuple[object, ...]] = set()


def scan_video(path: Path, max_frames: int | None = None, damaged: str = "refuse") -> VideoScan:
    """Decode a video, or its first frames; the result is kept until the process ends or the file changes.

    Args:
        max_frames: stop after this many frames, without a check of the rest.
        damaged: "refuse" raises for a file that is cut off or damaged; "keep" takes what can be read, with a warning.

    Raises:
        InputError: the file is missing, has no video stream, no frame can be decoded, or it is damaged.
    """
    check_choice("data.damaged", damaged, DAMAGED)
    path = Path(path)
    file = _identity(path)
    scan = _scans.get((*file, None))
    if scan is None or (max_frames is not None and scan.damage is not None):
        scan = _scans.get((*file, max_frames))
    if scan is None:
        scan, complete = _scan(path, max_frames)
        _scans[(*file, max_frames)] = scan
        if complete:
            _scans[(*file, None)] = scan
    if scan.damage is not None and damaged == "refuse":
        raise InputError(cut_off(path, scan.damage))
    if scan.num_frames < 1:
        raise InputError(cut_off(path, "no frame can be decoded"))
    if scan.damage is not None and file not in _warned:
        _warned.add(file)
        log.warning("%s is cut off or damaged (%s): %d frames of it are read", path, scan.damage, scan.num_frames)
    return scan.first(max_frames)


def _identity(path: Path) -> tuple[object, ...]:
    try:
        stat = path.stat()
    except OSError:  # `open_video` says what is wrong
        return (str(path),)
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def _scan(path: Path, max_frames: int | None) -> tuple[VideoScan, bool]:
    """Return the scan, and whether it reached the file's end."""
    with open_video(path) as (container, stream):
        others = len(played_streams(container)) - 1
        if others:
            log.info("%s has %d video streams: stream %d is read, which plays", path, others + 1, stream.index)
        rates = tuple(Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate)
        container_name, tick_s = container.format.name, Fraction(stream.time_base or Fraction(1, 1000))
        logs_all = stream.codec_context.codec.intra_only or stream.codec_context.name in ("ffv1", "gif")
        seen = _Frames()
        decoder = Decoder(container, stream)
        with _decoder_errors(stream, logs_all) as errors:
            seen.read(decoder, max_frames, path)
        field_order = _field_order(stream)
        announced = stream.frames
        indexed = sum(entry.size > 0 for entry in stream.index_entries)
        tag_s = _duration_tag_s(stream)
        start_s = Fraction(0) if stream.start_time is None else stream.start_time * tick_s
    stopped = max_frames is not None and len(seen.pts) > max_frames
    damage = decoder.damage_before(seen.pts[max_frames - 1] if stopped and max_frames else None)
    if damage is None and errors:
        damage = f"the decoder says: {errors[0][2].strip()}"
    if not stopped and damage is None and container_name.startswith(_INDEXED) and indexed > len(decoder.packet_times):
        damage = f"its index holds {indexed} frames and {len(decoder.packet_times)} can be found"
    if not stopped and damage is None:
        damage = _container_damage(path, container_name, announced, len(seen.pts))
    rates = rates or (DEFAULT_FPS,)
    pts = _in_order(seen.pts, decoder.packet_times, stopped)
    stamps, made_up = increasing([None if at is None else at * tick_s for at in pts], 1 / rates[0], start_s)
    if made_up and made_up < len(stamps):
        log.warning(
            "%d of %d times of frames in %s are missing or not increasing: put between", made_up, len(stamps), path
        )
    if stamps and not stopped:
        # MP4 has times from one packet to the next in its own order, where the last is not always shown last.
        last_duration = decoder.last_duration if "mp4" in container_name else seen.last_duration
        end = stamps[-1] + (last_duration * tick_s or 1 / rates[0])
        if tag_s is not None and damage is None:
            # Matroska's tag holds the end of a last frame that stands still.
            end = tag_s if tag_s > end + tick_s else end
        stamps.append(end)
    if max_frames is not None:
        stamps = stamps[: max_frames + 1]
    tells = decoder.codec in _SELF_TOLD
    scan = VideoScan(
        stamps=tuple(stamps) or (Fraction(0),),
        tick_s=tick_s,
        rates=rates,
        interlaced=seen.interlaced > 0 or (field_order is not None and not tells),
        field_order=None if seen.interlaced or tells else field_order,
        damage=damage,
    )
    return scan, not stopped


def _in_order(pts: list[int | None], packet_times: list[int], stopped: bool) -> list[int | None]:
    """Return the times of frames; those of the packets, sorted, where the frames' are no times of showing.

    AVI stores H.264 with the order of decoding only.
    """
    shown = [at for at in pts if at is not None]
    if len(shown) == len(pts) and sorted(set(shown)) == shown:
        return pts
    ordered: list[int | None] = [*sorted(set(packet_times))]
    one_each = len(ordered) == len(packet_times) and (stopped or len(ordered) == len(pts))
    return ordered[: len(pts)] if one_each else pts


class _Frames:
    """Collect what a scan keeps of each frame."""

    def __init__(self) -> None:
        self.pts: list[int | None] = []
        self.interlaced = 0
        self.last_duration = 0

    def read(self, decoder: Decoder, max_frames: int | None, path: Path) -> None:
        """Read one frame more than `max_frames`: it tells when the last of them ends."""
        said_s = time.monotonic()
        for frame in islice(decoder.frames(), None if max_frames is None else max_frames + 1):
            self.pts.append(frame.pts)
            self.interlaced += frame.interlaced_frame
            self.last_duration = frame.duration or 0
            if time.monotonic() - said_s > PROGRESS_S:
                log.info("%s: %d frames checked", path, len(self.pts))
                said_s = time.monotonic()


@contextmanager
def _decoder_errors(stream: VideoStream, wanted: bool) -> Iterator[list[tuple[int, str, str]]]:
    """Collect what an intra-frame decoder, such as MJPEG's, or FFV1's logs as errors: it marks no frame as damaged.

    Other decoders mark frames, and log errors of sound files too, such as a missing reference before the first key
    frame of a broadcast.
    """
    if not wanted:
        yield []
        return
    stream.thread_type = "NONE"
    with _captured() as logs:
        yield logs


@contextmanager
def _captured() -> Iterator[list[tuple[int, str, str]]]:
    level, skip = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip)


def _container_damage(path: Path, name: str, announced: int, frames: int) -> str | None:
    missing = missing_bytes(path, name)
    if missing:
        found = f", it announces {announced} frames and {frames} can be decoded" if announced > frames else ""
        return f"its end is missing, at least {missing} bytes{found}"
    return _reading_fault(path, name)


def _reading_fault(path: Path, name: str) -> str | None:
    """Read all packets of all streams again, and return what is wrong with the container; None where nothing is.

    The decoders log nothing here, so that errors are the demuxer's.
    """
    end_s, end = Fraction(0), 0
    with _captured() as logs, open_video(path) as (container, _):  # opening reads a short file to its end
        duration_s = Fraction(container.duration or 0, av.time_base) if name in _TIMED else Fraction(0)
        try:
            for packet in container.demux():
                end = max(end, (packet.pos or 0) + packet.size)
                if packet.pts is not None and packet.time_base:
                    end_s = max(end_s, (packet.pts + (packet.duration or 0)) * packet.time_base)
        except READING_ERRORS as error:
            return f"reading stops with: {error}"
    if name == "yuv4mpegpipe" and end < path.stat().st_size:  # its reader takes a part of a frame for the end
        return "its last frame is incomplete"
    if end_s + _TIMED_TOLERANCE_S < duration_s:
        return f"it announces {float(duration_s):.2f} s and ends at {float(end_s):.2f} s"
    return next((f"reading it says: {message.strip()}" for _, source, message in logs if source == name), None)


def _field_order(stream: VideoStream) -> str | None:
    order = int(getattr(stream.codec_context, "field_order", 0) or 0)  # PyAV 17.1 has none
    if order < 2:
        return None
    return "bff" if order in _BOTTOM_FIRST else "tff"


def _duration_tag_s(stream: VideoStream) -> Fraction | None:
    """Return the stream's DURATION tag, which Matroska and WebM write ("00:00:01.667000000"), in seconds."""
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None
