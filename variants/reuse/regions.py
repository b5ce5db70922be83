"""Layers on a region: the part of their input that a rectangle of their output depends on (for `reuse=exact`)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from propainter.inference.preparation import to_device
from propainter.models.layers import UpConv

GRID = 16
"""Regions begin and end at multiples of this many pixels: libraries compile code for each size (oneDNN keeps it for up
to 1,024 sizes), and a moving hole has another size in each window."""

LARGEST_SHARE = 0.7
"""A region with a larger share of the frame does not repay its margins: the whole frame is decoded."""


class Span(NamedTuple):
    """Hold rows or columns from `start` to before `stop`, of an image with `size` of them."""

    start: int
    stop: int
    size: int

    def wider(self, by: int) -> "Span":
        """Return the span with `by` more on both sides, inside the image."""
        return Span(max(0, self.start - by), min(self.size, self.stop + by), self.size)

    def on_grid(self) -> "Span":
        """Return the span widened to multiples of `GRID`, inside the image."""
        return Span(self.start // GRID * GRID, min(self.size, -(-self.stop // GRID) * GRID), self.size)

    def inside(self, outer: "Span") -> slice:
        """Return this span's slice of an array that covers `outer`."""
        return slice(self.start - outer.start, self.stop - outer.start)

    def halved(self) -> "Span":
        """Return the span of the half-size image that this span is interpolated from, with aligned corners."""
        size = self.size // 2
        scale = (size - 1) / (self.size - 1)
        # One more on each side than the positions need, against rounding.
        return Span(int(self.start * scale), int((self.stop - 1) * scale) + 1, size).wider(1)


Region = tuple[Span, Span]
"""Rows, then columns."""


def around(rows: np.ndarray, columns: np.ndarray) -> Region | None:
    """Return the smallest region on the grid that holds all marked rows and columns (bool); None without any."""

    def span(lines: np.ndarray) -> Span | None:
        marked = np.flatnonzero(lines)
        return Span(int(marked[0]), int(marked[-1]) + 1, len(lines)).on_grid() if len(marked) else None

    vertical, horizontal = span(rows), span(columns)
    return None if vertical is None or horizontal is None else (vertical, horizontal)


def needed(layers: Iterable[nn.Module], want: Region) -> Region:
    """Return the region of the layers' input that the region `want` of their output depends on; see `through`."""
    for layer in reversed(list(layers)):
        if isinstance(layer, UpConv):
            want = each(_enlarged_for(want), Span.halved)
        elif isinstance(layer, nn.Conv2d):
            want = each(want, lambda span: span.wider(1))
    return want


def through(layers: Iterable[nn.Module], x: Tensor, want: Region) -> Tensor:
    """Compute the output of 3x3 convolutions, `UpConv`s and activations in the region `want`.

    x: [N, C, rows, columns], the region `needed` of the input.
    """
    layers = list(layers)
    for i, layer in enumerate(layers):
        have, here = needed(layers[i:], want), needed(layers[i + 1 :], want)
        if isinstance(layer, UpConv):
            full = _enlarged_for(here)
            x = convolved(layer.conv, enlarged(x, have, full), full, here)
        elif isinstance(layer, nn.Conv2d):
            x = convolved(layer, x, have, here)
        else:
            x = layer(x)
    return x


def _enlarged_for(want: Region) -> Region:
    """Return the region that an `UpConv` interpolates for `want` of its output: its 3x3 convolution reads 1 more."""
    return each(want, lambda span: span.wider(1))


def enlarged(x: Tensor, have: Region, want: Region) -> Tensor:
    """Double the size of x, which covers `have`, bilinearly with aligned corners, and return the region `want`."""
    dtype, x = x.dtype, x.float()
    for dim, source, target in zip((-2, -1), have, want, strict=True):
        low, high, part = _positions(source, target, x.device)
        part = part.view(-1, *[1] * (-1 - dim))
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), part)
    return x.to(dtype)


def _positions(source: Span, target: Span, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices in `source` before and after each position of `target`, and its part of the way between.

    Computed on the host: on a GPU each of ten operations on a few numbers would be a kernel.
    """
    at = np.arange(target.start, target.stop, dtype=np.float32) * np.float32((source.size - 1) / (target.size - 1))
    low = np.minimum(np.floor(at), source.size - 1).astype(np.int32)
    high = np.minimum(low + 1, source.size - 1)
    table = np.stack([low - source.start, high - source.start, (at - low.astype(np.float32)).view(np.int32)])
    first, second, part = to_device(table, device).unbind(0)
    return first, second, part.view(torch.float32)


def convolved(conv: nn.Module, x: Tensor, have: Region, want: Region) -> Tensor:
    """Convolve x, which covers `have`, by 3x3, and return `want`; the margin, wrong by the cut, is left out."""
    rows, columns = (inner.inside(outer) for inner, outer in zip(want, have, strict=True))
    return conv(x)[..., rows, columns]


def cut(x: Tensor, region: Region) -> Tensor:
    """Return the region of an image x [..., H, W]."""
    rows, columns = region
    return x[..., rows.start : rows.stop, columns.start : columns.stop]


def each(region: Region, change: Callable[[Span], Span]) -> Region:
    """Return the region with both spans changed."""
    rows, columns = region
    return change(rows), change(columns)


def share(region: Region) -> float:
    """Return the region's share of the image's pixels, 0 to 1."""
    rows, columns = region
    return (rows.stop - rows.start) * (columns.stop - columns.start) / (rows.size * columns.size)
