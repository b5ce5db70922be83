"""Copy the encoded packets of a video of ours."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

PLAIN_MP4 = {"movflags": "+faststart+write_colr"}
"""Options of an mp4 with its index at the front, and its colours there too."""


def copy_video(source: Path, target: Path) -> None:
    """Copy a video's packets into a plain mp4."""
    with av.open(str(source)) as given, av.open(str(target), "w", format="mp4", options=PLAIN_MP4) as whole:
        copy_packets(given, whole)


def copy_packets(source: InputContainer, target: OutputContainer, at_most: int | None = None) -> int:
    """Copy the video's packets, the first ones where `at_most` is given; return how many."""
    stream = target.add_stream_from_template(source.streams.video[0])
    count = 0
    for packet in islice(video_packets(source), at_most):
        packet.stream = stream
        target.mux(packet)
        count += 1
    return count


def video_packets(container: InputContainer) -> Iterator[Any]:
    """Yield the video's complete packets."""
    for packet in container.demux(video=0):
        if packet.dts is not None and not packet.is_corrupt:  # without dts: the end
            yield packet
