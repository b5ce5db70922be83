"""Read videos by PyAV. Frames are uint8 RGB arrays [H, W, 3]."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from propainter.errors import InputError
from propainter.io.color_tags import HDR, frame_tags
from propainter.io.frame_converter import FrameConverter
from propainter.io.video_format import VideoInfo
from propainter.io.video_scan import DEFAULT_FPS, scan_video
from propainter.io.video_stream import Decoder, check_choice, cut_off, open_video, played_streams

log = logging.getLogger(__name__)

HDR_CHOICES = ("tonemap", "refuse")
DEINTERLACE_CHOICES = ("auto", "none")

_said: set[str] = set()


def probe_video(path: Path) -> VideoInfo:
    """Read a video's header and decode its first frame.

    Raises:
        InputError: the file is missing, has no video stream, or no frame of it can be decoded.
    """
    with open_video(path) as (container, stream):
        frame = next(Decoder(container, stream).frames(), None)
        if frame is None:
            raise InputError(cut_off(path, "no frame can be decoded"))
        rotation = round(frame.rotation / 90) * 90 % 360
        height, width = frame.height, frame.width
        shape = Fraction(stream.sample_aspect_ratio or 1)
        if rotation % 180:
            height, width, shape = width, height, 1 / shape
        tags = frame_tags(frame)
        return VideoInfo(
            fps=Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS),
            height=height,
            width=width,
            num_frames=_announced_frames(container, stream),
            path=Path(path),
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            pix_fmt=frame.format.name,
            sample_aspect_ratio=shape,
            rotation=rotation,
            color=tags,
            hdr=HDR.get(tags.transfer or ""),
            lossless=_is_lossless(stream),
            bit_depth=max(component.bits for component in frame.format.components),
            num_other_videos=len(played_streams(container)) - 1,
        )


def inspect_video(path: Path, max_frames: int | None = None, damaged: str = "refuse") -> VideoInfo:
    """Return a video's header with what `scan_video` found in its frames; arguments and errors are as there."""
    scan = scan_video(path, max_frames, damaged)
    return replace(
        probe_video(path),
        fps=scan.fps,
        num_frames=scan.num_frames,
        interlaced=scan.interlaced,
        variable_rate=scan.constant_fps is None,
        start_s=scan.stamps[0],
        duration_s=scan.stamps[-1] - scan.stamps[0],
        damage=scan.damage,
    )


def iterate_video(
    path: Path,
    max_frames: int | None = None,
    *,
    hdr: str = "tonemap",
    deinterlace: str = "auto",
    damaged: str = "refuse",
) -> Iterator[np.ndarray]:
    """Yield the frames of a video, uint8 RGB [H, W, 3], turned by the file's rotation.

    Colours are converted by each frame's own matrix and range, by BT.601 where it says none, as FFmpeg does.

    Args:
        path: a video file.
        max_frames: stop after this many frames, without a check of the rest.
        hdr: "tonemap" makes SDR in BT.709 of PQ and HLG, with a warning; "refuse" raises;
            "codes" takes the codes for SDR, as masks need.
        deinterlace: "auto" makes one frame of full height of each interlaced one; "none" leaves it.
        damaged: "refuse" or "keep", as in `scan_video`.

    Raises:
        InputError: the file is missing, has no video stream, is truncated or damaged, its colours cannot be converted,
            or an option has none of its values.
    """
    if hdr != "codes":
        check_choice("data.hdr", hdr, HDR_CHOICES)
    check_choice("data.deinterlace", deinterlace, DEINTERLACE_CHOICES)
    scan = scan_video(path, max_frames, damaged)
    if scan.interlaced:
        action = "each becomes one frame of full height" if deinterlace == "auto" else "they are left so"
        _say_once(logging.INFO, f"{path} has interlaced frames: {action} (data.deinterlace={deinterlace})")
    with open_video(path) as (container, stream):
        decoded = Decoder(container, stream).frames()
        frames = islice(decoded if hdr == "codes" else _sdr(decoded, path, hdr), scan.num_frames)
        converter = FrameConverter(path, scan.interlaced and deinterlace == "auto", scan.field_order, hdr != "codes")
        yield from converter.convert(frames)


def is_lossless_video(path: Path) -> bool:
    """Return whether a video's codec always keeps values exactly, as FFV1 does. Raise InputError as `probe_video`."""
    with open_video(path) as (_, stream):
        return _is_lossless(stream)


def _is_lossless(stream: VideoStream) -> bool:
    codec = stream.codec_context.codec
    return bool(codec.lossless and not codec.lossy)


def _sdr(frames: Iterator[av.VideoFrame], path: Path, hdr: str) -> Iterator[av.VideoFrame]:
    """Yield frames, with the warning or the error where they are HDR."""
    for frame in frames:
        kind = HDR.get(frame_tags(frame).transfer or "")
        if kind is not None and hdr == "refuse":
            raise InputError(
                f"{path} is HDR ({kind.upper()}), and data.hdr=refuse: give an SDR video, or data.hdr=tonemap."
            )
        if kind is not None:
            _say_once(logging.WARNING, f"{path} is HDR ({kind.upper()}), and becomes SDR in BT.709 (data.hdr=tonemap)")
        yield frame


def _say_once(level: int, message: str) -> None:
    if message not in _said:
        _said.add(message)
        log.log(level, message)


def _announced_frames(container: InputContainer, stream: VideoStream) -> int | None:
    if "mp4" in container.format.name and stream.frames and len(stream.index_entries):
        # A trimmed mp4 keeps the frames before its start in the file and marks them as not to be shown.
        return sum(not entry.is_discard for entry in stream.index_entries)
    return stream.frames or None
