"""FFmpeg's numbers for colours and the names that ffprobe prints (https://ffmpeg.org/doxygen/trunk/pixfmt_8h.html)."""

import av

from propainter.io.video_format import ColorTags

MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
}
RANGES = {1: "tv", 2: "pc"}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
}
TRANSFERS = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
HDR = {"smpte2084": "pq", "arib-std-b67": "hlg"}
"""The kind of HDR by its transfer (https://www.itu.int/rec/R-REC-BT.2100)."""


def frame_tags(frame: av.VideoFrame) -> ColorTags:
    """Return the colours that a decoded frame is tagged with."""
    return ColorTags(
        matrix=MATRICES.get(int(frame.colorspace)),
        range=RANGES.get(int(frame.color_range)),
        primaries=PRIMARIES.get(int(frame.color_primaries)),
        transfer=TRANSFERS.get(int(frame.color_trc)),
    )
