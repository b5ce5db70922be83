"""What a video file says of its pictures beside the pixels: shape, colours, times."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


@dataclass(frozen=True)
class ColorTags:
    """Say how RGB is stored as YUV, by the names that ffprobe prints; None where a file does not say.

    Attributes:
        matrix: ffprobe's color_space, such as "bt709" or "smpte170m".
        range: "tv" or "pc".
        primaries: such as "bt709" or "bt2020".
        transfer: such as "bt709" or "smpte2084".
    """

    matrix: str | None = None
    range: str | None = None
    primaries: str | None = None
    transfer: str | None = None


@dataclass(frozen=True)
class VideoFormat:
    """Say how a video is written.

    Attributes:
        fps: frames per second; the average where frames have times of their own.
        height, width: of the frames that are given, in pixels.
        sample_aspect_ratio: width of a pixel by its height, as shown.
        color: the tags; pixels are converted by them, by BT.601 and the range "tv" where there is none.
        pix_fmt: FFmpeg's name of the pixel format.
        matrix: what pixels are converted by where it is not the tag's.
    """

    fps: Fraction
    height: int
    width: int
    sample_aspect_ratio: Fraction = Fraction(1)
    color: ColorTags = ColorTags()
    pix_fmt: str = "yuv420p"
    matrix: str | None = None


@dataclass(frozen=True)
class VideoInfo:
    """Hold the header of a video.

    Attributes:
        fps: frames per second, in the mean.
        height: of an upright frame, in pixels.
        width: of an upright frame, in pixels.
        num_frames: the container's number of frames; None without one, as in Matroska.
        path: of the file.
        container: FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        codec: FFmpeg's name, such as "h264".
        pix_fmt: FFmpeg's name, such as "yuv420p10le".
        sample_aspect_ratio: width of a pixel by its height, in an upright frame.
        rotation: degrees by which a player turns the stored frames, counter-clockwise.
        color: the file's tags.
        hdr: "pq", "hlg" or None.
        lossless: whether the codec always keeps values exactly, as FFV1 does.
        bit_depth: of the stored samples.
        num_other_videos: the file's other video streams; cover art does not count.
        interlaced: whether frames consist of two fields of different times; None where only the header was read.
        variable_rate: whether frames are not 1 / `fps` apart; None where only the header was read.
        start_s: the first frame's time, in seconds of the file's clock; None where only the header was read.
        duration_s: from the first frame's time to the last one's end; None where only the header was read.
        damage: what is damaged, as part of a sentence; None where nothing was found, or only the header was read.
    """

    fps: Fraction
    height: int
    width: int
    num_frames: int | None
    path: Path | None = None
    container: str = ""
    codec: str = ""
    pix_fmt: str = ""
    sample_aspect_ratio: Fraction = Fraction(1)
    rotation: int = 0
    color: ColorTags = ColorTags()
    hdr: str | None = None
    lossless: bool = False
    bit_depth: int = 8
    num_other_videos: int = 0
    interlaced: bool | None = None
    variable_rate: bool | None = None
    start_s: Fraction | None = None
    duration_s: Fraction | None = None
    damage: str | None = None
