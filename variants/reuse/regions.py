"""Layers where their pixels are used: what a rectangle of their output needs of their input (for `reuse=exact`)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from propainter.models.layers import UpConv

GRID = 16
"""Regions begin and end at multiples of this many pixels: libraries keep code for each size they have met (oneDNN up to
1,024 of them), and a hole that moves has another one in each window."""

LARGEST_SHARE = 0.7
"""A region that covers more of the frame than this is not worth its margins: the whole frame is decoded."""


class Span(NamedTuple):
    """Rows or columns `start` to before `stop` of an image that has `size` of them."""

    start: int
    stop: int
    size: int

    def wider(self, by: int) -> "Span":
        """With `by` more on both sides, inside the image."""
        return Span(max(0, self.start - by), min(self.size, self.stop + by), self.size)

    def on_grid(self) -> "Span":
        """Widened to multiples of `GRID`, inside the image."""
        return Span(self.start // GRID * GRID, min(self.size, -(-self.stop // GRID) * GRID), self.size)

    def inside(self, outer: "Span") -> slice:
        """Where this span lies in what covers `outer`."""
        return slice(self.start - outer.start, self.stop - outer.start)

    def halved(self) -> "Span":
        """What this span is interpolated from, in an image of half the size with aligned corners."""
        size = self.size // 2
        scale = (size - 1) / (self.size - 1)
        # One more on each side than the positions themselves ask for, against rounding.
        return Span(int(self.start * scale), int((self.stop - 1) * scale) + 1, size).wider(1)


Region = tuple[Span, Span]
"""Rows and columns."""


def around(rows: np.ndarray, columns: np.ndarray) -> Region | None:
    """The smallest region on the grid that holds all rows and columns that are marked (bool); None where none is."""
    spans = []
    for lines in (rows, columns):
        marked = np.flatnonzero(lines)
        if not len(marked):
            return None
        spans.append(Span(int(marked[0]), int(marked[-1]) + 1, len(lines)).on_grid())
    return tuple(spans)


def needed(layers: Sequence[nn.Module], want: Region) -> Region:
    """What of their input the layers need to give `want` of their output; see `through`."""
    for layer in reversed(layers):
        if isinstance(layer, UpConv):
            want = each(_enlarged_for(want), Span.halved)
        elif isinstance(layer, nn.Conv2d):
            want = each(want, lambda span: span.wider(1))
    return want


def through(layers: Sequence[nn.Module], x: Tensor, want: Region) -> Tensor:
    """Through 3x3 convolutions, `UpConv`s and activations: x covers what is `needed` -> the layers' output at `want`.

    x: [N, C, rows, columns].
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
    """What an `UpConv` interpolates for `want` of its output: a 3x3 convolution looks 1 further."""
    return each(want, lambda span: span.wider(1))


def enlarged(x: Tensor, have: Region, want: Region) -> Tensor:
    """Bilinear x2 with aligned corners of x, which covers `have`, at `want` of the image of twice the size."""
    dtype, x = x.dtype, x.float()
    for dim, source, target in zip((-2, -1), have, want, strict=True):
        at = torch.arange(target.start, target.stop, device=x.device) * ((source.size - 1) / (target.size - 1))
        low = at.floor().clamp(max=source.size - 1)
        part = (at - low).view(-1, *[1] * (-1 - dim))
        first = low.long() - source.start
        second = (low.long() + 1).clamp(max=source.size - 1) - source.start
        x = torch.lerp(x.index_select(dim, first), x.index_select(dim, second), part)
    return x.to(dtype)


def convolved(conv: nn.Module, x: Tensor, have: Region, want: Region) -> Tensor:
    """A 3x3 convolution of x, which covers `have`, at `want`: what the cut makes wrong at the margin falls away."""
    rows, columns = (inner.inside(outer) for inner, outer in zip(want, have, strict=True))
    return conv(x)[..., rows, columns]


def cut(x: Tensor, region: Region) -> Tensor:
    rows, columns = region
    return x[..., rows.start : rows.stop, columns.start : columns.stop]


def each(region: Region, change: Callable[[Span], Span]) -> Region:
    return tuple(change(span) for span in region)


def share(region: Region) -> float:
    rows, columns = region
    return (rows.stop - rows.start) * (columns.stop - columns.start) / (rows.size * columns.size)
