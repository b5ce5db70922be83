"""Decode only the pixels that are used, around the hole (for `reuse=exact`)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from propainter.inference.pipeline import Scene
from propainter.models.flow_completion import FlowCompletion
from propainter.models.generator import Generator
from propainter.models.transformer import PADDING, PATCH, STRIDE
from variants.components import is_wrapped
from variants.reuse.batching import batch_size_for
from variants.reuse.regions import LARGEST_SHARE, Region, around, convolved, cut, each, needed, share, through


class HoleRegions:
    """Find the hole's rectangle in each local frame of a scene's windows, by one copy from the device."""

    def __init__(self, scene: Scene) -> None:
        frames = sorted({t for window in scene.windows for t in window.local})
        self._size = tuple(scene.masks(frames[:1]).shape[-2:])
        together = batch_size_for(scene.masks(frames[:1]).device, self._size[0] * self._size[1] * 4)
        parts = [scene.masks(frames[i : i + together])[0, :, 0] > 0 for i in range(0, len(frames), together)]
        lines = torch.cat([torch.cat([part.any(-1), part.any(-2)], dim=1) for part in parts]).cpu().numpy()
        self._lines = {t: np.split(line, [self._size[0]]) for t, line in zip(frames, lines, strict=True)}

    def of(self, numbers: Sequence[int]) -> Region | None:
        """Return the smallest region on the grid that holds the hole of these frames; None without a hole."""
        return around(*(np.any(lines, axis=0) for lines in zip(*(self._lines[t] for t in numbers), strict=True)))


def decode_region(generator: Generator, features: Tensor, tokens: Tensor, region: Region | None) -> Tensor:
    """Compute `generator.decode` inside the region, and 0 outside.

    Args:
        features: [B, L, C, h, w].
        tokens: [B, L, fh, fw, hidden].
        region: in the frames [H, W]; None: no pixel is used.

    Returns:
        [B, L, 3, H, W] in [-1, 1].
    """
    batch, count = features.shape[:2]
    height, width = (4 * side for side in features.shape[-2:])
    if region is None:
        return features.new_zeros(batch, count, 3, height, width)
    if is_wrapped(generator.decoder) or is_wrapped(generator.sc) or share(region) > LARGEST_SHARE:
        return generator.decode(features, tokens)
    quarter = needed(generator.decoder, region)
    x = cut(features.flatten(0, 1), quarter) + compose_tokens(generator, tokens.flatten(0, 1), quarter)
    x = torch.tanh(through(generator.decoder, x, region))
    return _placed(x, region).unflatten(0, (batch, count))


def _placed(x: Tensor, region: Region) -> Tensor:
    """Return an image with x, which covers the region, and 0 elsewhere."""
    output = x.new_zeros(*x.shape[:2], *(span.size for span in region))
    cut(output, region).copy_(x)
    return output


class RegionFlowDecoder:
    """Replace `FlowCompletion.decode`: predict the flow only in a rectangle around the hole.

    A wrapped network (compiled, or under an autocast of its own) decodes all pixels, as published.
    """

    def __init__(self, network: FlowCompletion) -> None:
        self._network, self._published = network, network.decode

    def __call__(self, eighth: Tensor, quarter: Tensor, masks: Tensor) -> Tensor:
        """Return flow [N, 2, H, W], 0 outside the rectangle; arguments as in `FlowCompletion.decode`."""
        network = self._network
        if is_wrapped(network):
            return self._published(eighth, quarter, masks)
        hidden = masks[:, 0] > 0
        lines = torch.cat([hidden.any(-1).any(0), hidden.any(-2).any(0)]).cpu().numpy()
        region = around(*np.split(lines, [masks.shape[-2]]))
        if region is None:
            return eighth.new_zeros(len(eighth), 2, *masks.shape[-2:])
        if share(region) > LARGEST_SHARE:
            return self._published(eighth, quarter, masks)
        last = [*network.decoder1, *network.upsample]
        at_quarter = needed(last, region)
        x = through(network.decoder2, cut(eighth, needed(network.decoder2, at_quarter)), at_quarter)
        return _placed(through(last, x + cut(quarter, at_quarter), region), region)


def compose_tokens(generator: Generator, tokens: Tensor, region: Region) -> Tensor:
    """Compute `generator.sc` in a region of the features: tokens [N, fh, fw, hidden] -> [N, C, rows, columns]."""
    outer = each(region, lambda span: span.wider(1))
    grids, offsets, sides = [], [], []
    for span, count in zip(outer, tokens.shape[1:3], strict=True):
        first = max(0, -(-(span.start + PADDING - PATCH + 1) // STRIDE))
        last = min(count - 1, (span.stop - 1 + PADDING) // STRIDE)
        grids.append(slice(first, last + 1))
        offsets.append(span.start - (first * STRIDE - PADDING))
        sides.append(PATCH + STRIDE * (last - first))
    patches = generator.sc.embedding(tokens[:, grids[0], grids[1]].flatten(1, 2))
    folded = F.fold(patches.transpose(1, 2), tuple(sides), PATCH, stride=STRIDE)
    rows, columns = (slice(at, at + span.stop - span.start) for at, span in zip(offsets, outer, strict=True))
    return convolved(generator.sc.bias_conv, folded[..., rows, columns], outer, region)
