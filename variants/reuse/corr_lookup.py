"""RAFT's lookup in a correlation volume, with its constants computed once (for `reuse=flow`)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.optical_flow.raft import CorrBlock

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

    def __init__(self, volumes: list[Tensor], radius: int) -> None:
        self._volumes = volumes
        self._taps = [self._around(volume, radius) for volume in volumes]

    @staticmethod
    def _around(volume: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        """Return a pixel of this level in grid_sample's units, and the window around 0 in them, x slow and y fast."""
        height, width = volume.shape[-2:]
        pixel = torch.tensor([2 / (width - 1), 2 / (height - 1)], device=volume.device)
        steps = torch.arange(-radius, radius + 1, device=volume.device)
        return pixel, torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1) * pixel

    def __call__(self, coords: Tensor) -> Tensor:
        """Look up: coords [N, 2, h, w] -> [N, levels * (2 * radius + 1)**2, h, w], in channels_last."""
        batch, _, height, width = coords.shape
        centres = coords.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        side = self._taps[0][1].shape[0]
        windows = coords.new_empty(len(centres), len(self._volumes), side, side)
        for level, (volume, (pixel, around)) in enumerate(zip(self._volumes, self._taps, strict=True)):
            grid = (centres * (pixel / 2**level) - 1) + around
            windows[:, level] = F.grid_sample(volume, grid, mode="bilinear", align_corners=True)[:, 0]
        return windows.view(batch, height, width, -1).permute(0, 3, 1, 2)
