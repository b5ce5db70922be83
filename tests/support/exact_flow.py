"""How well exact flow explains a clip's truth."""

import numpy as np
import torch

from experiments.data import Clip
from propainter.models.warp import flow_to_grid, warp

BORDER = 12


def warp_errors(clip: Clip, offset_px: tuple[float, float] = (0, 0)) -> list[float]:
    """Mean error of each frame warped to its neighbour by exact flow and an offset, in steps of uint8; both ways."""
    truth = torch.from_numpy(np.stack(list(clip.truth()))).permute(0, 3, 1, 2).float()
    errors = []
    for flow, start, stop in zip(clip.exact_flow(), (truth[:-1], truth[1:]), (truth[1:], truth[:-1]), strict=True):
        assert flow.shape == (clip.num_frames - 1, 2, clip.height, clip.width) and flow.dtype == np.float32
        grid = flow_to_grid(torch.from_numpy(flow) + torch.tensor(offset_px)[:, None, None])
        difference = (warp(stop, grid) - start)[..., BORDER:-BORDER, BORDER:-BORDER]
        errors.append(float(difference.abs().mean()))
    return errors


def assert_explains(clip: Clip, share: float) -> None:
    """Flow leaves no more than that share of the frames' differences, and no flow beside it leaves less."""
    truth = np.stack(list(clip.truth())).astype(float)
    still = np.abs(np.diff(truth, axis=0))[:, BORDER:-BORDER, BORDER:-BORDER].mean()
    errors = warp_errors(clip)
    assert max(errors) < share * still
    for offset_px in ((0.3, 0.0), (-0.3, 0.0), (0.0, 0.3), (0.0, -0.3)):
        assert all(a < b for a, b in zip(errors, warp_errors(clip, offset_px), strict=True))
