"""How a clip's result is written: shape of the pixels, colours and rate of the video that it comes from."""

import logging
from dataclasses import replace
from fractions import Fraction

from experiments.data import Clip
from experiments.data.outpaint import OutpaintClip
from propainter.io.video_format import ColorTags, VideoFormat, VideoInfo
from propainter.io.video_writer import MATRICES

log = logging.getLogger(__name__)

HD_LINES = 720
"""Players take untagged video of at least as many lines for BT.709, and less for BT.601, as the two standards say."""

BT709 = ColorTags("bt709", "tv", "bt709", "bt709")
# Pictures are sRGB, whose primaries are those of BT.709; the transfer function of BT.601 is that of BT.709.
BT601 = ColorTags("smpte170m", "tv", "bt709", "bt709")

ROUNDING = 0.01
"""A resized clip's sample aspect ratio that is so near to the input's, as a share, comes from rounding the sides."""


def written_format(clip: Clip, pix_fmt: str = "yuv420p") -> VideoFormat:
    """Return how to write a result of the size of `clip`.

    Colours are the input's: matrix, range, primaries and transfer, and none where it says none. A size that players
    take for the other standard is then tagged by what they take the input for. Pictures, and matrices that RGB can't be
    converted by, get BT.709 from 720 lines on, else BT.601 (https://www.itu.int/rec/R-REC-BT.709).
    """
    info = clip.original()
    color = _usual(clip.height) if info is None else _color(info, clip.height)
    if pix_fmt.startswith("yuvj"):
        color = replace(color, range="pc")
    return VideoFormat(
        fps=Fraction(clip.fps).limit_denominator(1001) if info is None else info.fps,
        height=clip.height,
        width=clip.width,
        sample_aspect_ratio=Fraction(1) if info is None else _sample_aspect_ratio(clip, info),
        color=color,
        pix_fmt=pix_fmt,
        matrix="smpte170m" if info is not None and _as_read(info).matrix is None else None,
    )


def _usual(height: int) -> ColorTags:
    return BT709 if height >= HD_LINES else BT601


def _as_read(info: VideoInfo) -> ColorTags:
    """Return the colours of the frames as they are read: HDR has become BT.709 by then."""
    return BT709 if info.hdr is not None else info.color


def _color(info: VideoInfo, height: int) -> ColorTags:
    color = _as_read(info)
    if color.matrix is None:
        crosses = (info.height >= HD_LINES) != (height >= HD_LINES)
        return replace(color, matrix=_usual(info.height).matrix) if crosses else color
    if color.matrix in MATRICES:
        return color
    usual = _usual(height)
    if color.matrix not in ("gbr", "rgb"):
        log.warning("the colours of %s are by %s, and are written by %s", info.path, color.matrix, usual.matrix)
    return replace(usual, primaries=color.primaries or usual.primaries, transfer=color.transfer or usual.transfer)


def _sample_aspect_ratio(clip: Clip, info: VideoInfo) -> Fraction:
    """Return that by which the picture keeps the shape that it is shown in."""
    height, width = clip.height, clip.width
    if isinstance(clip, OutpaintClip):
        height, width = clip.video_height, clip.video_width
    change = Fraction(info.width * height, info.height * width)
    if abs(change - 1) < ROUNDING:
        return info.sample_aspect_ratio
    return (info.sample_aspect_ratio * change).limit_denominator(255)
