"""Convert decoded frames to RGB by FFmpeg's filters: deinterlaced, and HDR tone-mapped."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.filter import Graph

from propainter.errors import InputError
from propainter.io.color_tags import HDR, frame_tags

# Each pixel takes the chroma sample of its own block, as in swscale's default, so that the writer's mean over the block
# gives the sample back. Without the other two flags swscale goes by a table that is a level too dark in the mean.
EXACT = "flags=neighbor+accurate_rnd+full_chroma_int"
# FFmpeg's `scale` converts light, primaries and range in one step (https://ffmpeg.org/ffmpeg-filters.html#scale-1).
TONE_MAPPING = "flags=bicubic:out_primaries=bt709:out_transfer=bt709:intent=perceptual"


class FrameConverter:
    """Turn a video's frames into arrays, uint8 RGB [H, W, 3], upright.

    Args:
        path: of the file, for the message.
        deinterlace: replace each interlaced frame by one of full height.
        field_order: "tff" or "bff" where frames do not say themselves that they are interlaced.
        tonemap: map HDR to SDR; False takes its codes for SDR, as masks need.
    """

    def __init__(self, path: Path, deinterlace: bool, field_order: str | None, tonemap: bool = True) -> None:
        self._path, self._deinterlace, self._field_order = path, deinterlace, field_order
        self._tonemap = tonemap
        self._kind: tuple[object, ...] | None = None
        self._graph: Graph | None = None

    def convert(self, frames: Iterable[av.VideoFrame]) -> Iterator[np.ndarray]:
        """Yield an array for each frame; colours are converted by the frame's own matrix and range.

        Raises:
            InputError: FFmpeg cannot convert these colours.
        """
        for frame in frames:
            kind = (frame.width, frame.height, frame.format.name, frame_tags(frame), frame.rotation)
            if kind != self._kind:
                yield from self._pulled(None)
                self._kind, self._graph = kind, self._built(frame)
            yield from self._pulled(frame)
        yield from self._pulled(None)

    def _built(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
            *(graph.add(name, options) for name, options in self._filters(frame)),
            graph.add("buffersink"),
        ).configure()
        return graph

    def _filters(self, frame: av.VideoFrame) -> list[tuple[str, str]]:
        filters = []
        if self._deinterlace:
            if self._field_order is not None:
                filters.append(("setfield", self._field_order))
            filters.append(("bwdif", "mode=send_frame:deint=interlaced"))
        tags = frame_tags(frame)
        if self._tonemap and tags.transfer in HDR:
            # HDR is BT.2020 where a file does not say (https://www.itu.int/rec/R-REC-BT.2100).
            if tags.primaries is None:
                filters.append(("setparams", "color_primaries=bt2020"))
            if tags.matrix is None:
                filters.append(("setparams", "colorspace=bt2020nc"))
            filters.append(("scale", TONE_MAPPING))
        else:
            filters.append(("scale", EXACT))
        return [*filters, ("format", "rgb24")]

    def _pulled(self, frame: av.VideoFrame | None) -> Iterator[np.ndarray]:
        """Yield what comes out when a frame goes in; all that is left for None."""
        if self._graph is None or self._kind is None:
            return
        quarter_turns = round(int(self._kind[-1]) / 90)  # type: ignore[call-overload]
        try:
            self._graph.push(frame)
            while True:
                image = self._graph.pull().to_ndarray()
                yield np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
        except (BlockingIOError, EOFError):
            return
        except FFmpegError as error:
            tags = frame_tags(frame) if frame is not None else None
            matrix = "" if tags is None else f" ({tags.matrix})"
            raise InputError(
                f"the colours of {self._path}{matrix} cannot be converted to RGB ({error.strerror}): "
                "convert the video by ffmpeg -i FILE -pix_fmt yuv420p -colorspace bt709, or give images."
            ) from error
