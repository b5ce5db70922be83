"""The generator's decoder where its pixels are used: around the hole (for `reuse=exact`)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.generator import Generator
from propainter.pipeline import Scene
from propainter.transformer import PADDING, PATCH, STRIDE
from variants.reuse_batches import entries_together

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


class HoleRegions:
    """The rectangle of the hole in each frame of a run; the device is asked once.

    Args:
        scene: whose windows' frames count.
    """

    def __init__(self, scene: Scene) -> None:
        frames = sorted({t for window in scene.windows for t in window.local})
        self._size = tuple(scene.masks(frames[:1]).shape[-2:])
        together = entries_together(scene.masks(frames[:1]).device, self._size[0] * self._size[1] * 4)
        parts = [scene.masks(frames[i : i + together])[0, :, 0] > 0 for i in range(0, len(frames), together)]
        rows, columns = (torch.cat([part.any(dim) for part in parts]).cpu().numpy() for dim in (-1, -2))
        self._lines = {t: (rows[i], columns[i]) for i, t in enumerate(frames)}

    def of(self, numbers: Sequence[int]) -> Region | None:
        """The smallest region on the grid that holds the hole of these frames; None where they have none."""
        spans = []
        for lines, size in zip(zip(*(self._lines[t] for t in numbers), strict=True), self._size, strict=True):
            hidden = np.flatnonzero(np.any(lines, axis=0))
            if not len(hidden):
                return None
            spans.append(Span(int(hidden[0]), int(hidden[-1]) + 1, size).on_grid())
        return tuple(spans)


def decode_region(generator: Generator, features: Tensor, tokens: Tensor, region: Region | None) -> Tensor:
    """What `generator.decode` gives inside the region, and 0 outside it.

    Args:
        features: [B, L, C, h, w]; tokens: [B, L, fh, fw, hidden].
        region: of the frames [H, W]; None: nothing is wanted.

    Returns:
        [B, L, 3, H, W] in [-1, 1].
    """
    batch, count = features.shape[:2]
    height, width = (4 * side for side in features.shape[-2:])
    if region is None:
        return features.new_zeros(batch, count, 3, height, width)
    wrapped = any("forward" in vars(module) for module in (generator.decoder, generator.sc))
    if wrapped or _share(region) > LARGEST_SHARE:
        return generator.decode(features, tokens)
    up2, _, conv2, _, up1, _, conv1 = generator.decoder
    activation = generator.decoder[1]
    # From the pixels back to the features, each layer's output; a 3x3 convolution looks 1 further.
    after_up1 = _each(region, lambda span: span.wider(1))
    full = _each(after_up1, lambda span: span.wider(1))
    after_conv2 = _each(full, Span.halved)
    after_up2 = _each(after_conv2, lambda span: span.wider(1))
    half = _each(after_up2, lambda span: span.wider(1))
    quarter = _each(half, Span.halved)

    x = _cut(features.flatten(0, 1), quarter) + composed(generator, tokens.flatten(0, 1), quarter)
    x = activation(_conv(up2.conv, enlarged(x, quarter, half), half, after_up2))
    x = activation(_conv(conv2, x, after_up2, after_conv2))
    x = activation(_conv(up1.conv, enlarged(x, after_conv2, full), full, after_up1))
    x = torch.tanh(_conv(conv1, x, after_up1, region))
    output = x.new_zeros(len(x), 3, height, width)
    _cut(output, region).copy_(x)
    return output.unflatten(0, (batch, count))


def composed(generator: Generator, tokens: Tensor, region: Region) -> Tensor:
    """`generator.sc` inside a region of the features: tokens [N, fh, fw, hidden] -> [N, C, rows, columns]."""
    outer = _each(region, lambda span: span.wider(1))
    grids, offsets, sides = [], [], []
    for span, count in zip(outer, tokens.shape[1:3], strict=True):
        first = max(0, -(-(span.start + PADDING - PATCH + 1) // STRIDE))
        last = min(count - 1, (span.stop - 1 + PADDING) // STRIDE)
        grids.append(slice(first, last + 1))
        offsets.append(span.start - (first * STRIDE - PADDING))
        sides.append(PATCH + STRIDE * (last - first))
    patches = generator.sc.embedding(tokens[:, grids[0], grids[1]].flatten(1, 2))
    folded = F.fold(patches.transpose(1, 2), sides, PATCH, stride=STRIDE)
    rows, columns = (slice(at, at + span.stop - span.start) for at, span in zip(offsets, outer, strict=True))
    return _conv(generator.sc.bias_conv, folded[..., rows, columns], outer, region)


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


def _conv(conv: nn.Module, x: Tensor, have: Region, want: Region) -> Tensor:
    """A 3x3 convolution of x, which covers `have`, at `want`: what the cut makes wrong at the margin falls away."""
    rows, columns = (inner.inside(outer) for inner, outer in zip(want, have, strict=True))
    return conv(x)[..., rows, columns]


def _cut(x: Tensor, region: Region) -> Tensor:
    rows, columns = region
    return x[..., rows.start : rows.stop, columns.start : columns.stop]


def _each(region: Region, change) -> Region:
    return tuple(change(span) for span in region)


def _share(region: Region) -> float:
    rows, columns = region
    return (rows.stop - rows.start) * (columns.stop - columns.start) / (rows.size * columns.size)
