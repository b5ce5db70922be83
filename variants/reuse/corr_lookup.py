"""RAFT's lookup in a correlation volume, with its constants computed once (for `reuse=flow`)."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.optical_flow.raft import CorrBlock

from propainter.models.raft import row_blocks
from variants.correlation import AllPairs


class BidirectionalCorrelation:
    """Look up windows of all pairs forward, then of all pairs backward, in one volume and its transpose.

    Args:
        block: an all-pairs correlation block. It gets the pyramid of both directions; a lookup of its own is used.
        features: of n + 1 neighbouring frames, [n + 1, C, h, w].
    """

    def __init__(self, block: CorrBlock, features: Tensor) -> None:
        block.build_pyramid(features[:-1], features[1:])
        finest = block.corr_pyramid[0]  # [n * h * w, 1, h, w]
        pixels = finest.shape[-2] * finest.shape[-1]
        backward = finest.view(-1, pixels, pixels).transpose(1, 2).reshape(finest.shape)
        own = getattr(block, "windows", None)
        for level, forward in enumerate(block.corr_pyramid):
            block.corr_pyramid[level] = torch.cat([forward, backward])
            if not own:
                # Under autocast grid_sample would copy a half-precision volume to float32 in every update.
                block.corr_pyramid[level] = block.corr_pyramid[level].float()
            if level + 1 < block.num_levels:
                backward = F.avg_pool2d(backward, kernel_size=2, stride=2)
        if isinstance(block, AllPairs):
            block.note(sum(volume.nbytes for volume in block.corr_pyramid))
        volumes, radius = block.corr_pyramid, block.radius
        self._windows = partial(own, volumes, radius) if own else GridSampleLookup(volumes, radius)

    def index_pyramid(self, coords: Tensor) -> Tensor:
        """Look up as torchvision: [2n, 2, h, w] -> [2n, levels * (2 * radius + 1)**2, h, w], in channels_last."""
        return self._windows(coords)


class GridSampleLookup:
    """Look up windows by `grid_sample`; compute the grids' parts that do not depend on coordinates once."""

    def __init__(self, volumes: Sequence[Tensor], radius: int) -> None:
        self._volumes = volumes
        self._taps = [self._around(volume, radius, level) for level, volume in enumerate(volumes)]

    @staticmethod
    def _around(volume: Tensor, radius: int, level: int) -> tuple[Tensor, Tensor]:
        """Return grid_sample's units for a pixel of the finest level, and this level's window around 0 in them.

        The window has x slow and y fast. Made on the device: a copy from the host would wait for all work there.
        """
        height, width = volume.shape[-2:]
        pixel = torch.stack([torch.full((), 2 / (side - 1), device=volume.device) for side in (width, height)])
        steps = torch.arange(-radius, radius + 1, device=volume.device)
        return pixel / 2**level, torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1) * pixel

    def __call__(self, coords: Tensor) -> Tensor:
        """Look up: coords [N, 2, h, w] -> [N, levels * (2 * radius + 1)**2, h, w], in channels_last."""
        batch, _, height, width = coords.shape
        centres = coords.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        side = self._taps[0][1].shape[0]
        windows = coords.new_empty(len(centres), len(self._volumes), side, side)
        for level, (volume, (pixel, around)) in enumerate(zip(self._volumes, self._taps, strict=True)):
            for rows in row_blocks(len(centres)):
                grid = (centres[rows] * pixel - 1) + around
                sampled = F.grid_sample(volume[rows], grid, mode="bilinear", align_corners=True)
                windows[rows, level] = sampled[:, 0]
        return windows.view(batch, height, width, -1).permute(0, 3, 1, 2)
