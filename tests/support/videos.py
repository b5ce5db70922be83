"""Videos read and written without the code under test."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
from av.video.stream import VideoStream


def decoded(path: Path) -> list[np.ndarray]:
    """Return all frames that a player would show, uint8 [H, W, 3]."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def scene(index: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Return a smooth coloured picture that moves with its index, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    waves = (np.sin((x + 3 * index) / 17), np.cos((y - 2 * index) / 13), np.sin((x + y + index) / 23))
    return np.stack([128 + 90 * wave for wave in waves], axis=2).astype(np.uint8)


def encoded(
    path: Path,
    ticks: Sequence[int],
    *,
    tick: Fraction = Fraction(1, 25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    duration: int | None = None,
    prepare: Callable[[VideoStream], None] = lambda stream: None,
    interlaced: str | None = None,
    colors: Mapping[str, int] | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write a video with a frame of `scene` at each of the `ticks`.

    Args:
        duration: of the last packet, in ticks.
        prepare: is called with the stream before its first frame.
        interlaced: "tff" or "bff" to flag frames so.
        colors: colorspace, color_range, color_primaries and color_trc of the stream, FFmpeg's numbers.
        options: of the container.
    """
    with av.open(str(path), "w", options=dict(options or {})) as out:
        stream = out.add_stream(codec, rate=1 / tick)
        stream.height, stream.width, stream.pix_fmt = 96, 128, pix_fmt
        stream.codec_context.time_base = tick
        for name, value in (colors or {}).items():
            setattr(stream.codec_context, name, value)
        prepare(stream)
        packets = []
        for index, pts in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(scene(index), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = pts, tick
            packets += stream.encode(_flagged(frame, interlaced))
        packets += stream.encode(None)
        if duration is not None:
            packets[-1].duration = duration
        for packet in packets:
            out.mux(packet)
    return path


def _flagged(frame: av.VideoFrame, interlaced: str | None) -> av.VideoFrame:
    if interlaced is None:
        return frame
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("setfield", interlaced), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()
