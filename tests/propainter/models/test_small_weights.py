"""The shipped flow completion on clips far longer than those of its training: near the exact flow, and consistent."""

import numpy as np
import pytest
import torch

from experiments.data import load, sample_clip
from propainter import Networks
from propainter.inference.preparation import prepare_masks, widen_masks
from propainter.models.dis import MASK_MARGIN, DisFlowEstimator
from propainter.models.flow_completion import complete_flow, predict_flow
from propainter.models.warp import flow_to_grid, warp
from propainter.weights import load_small

LENGTHS = [24, 80, 160]


@pytest.fixture(scope="module")
def small() -> Networks:
    return load_small()


def lengths(flow: torch.Tensor) -> torch.Tensor:
    """Of [1, T, 2, H, W]: [1, T, 1, H, W]."""
    return flow.square().sum(2, keepdim=True).sqrt()


@pytest.mark.slow
@pytest.mark.parametrize("count", LENGTHS)
def test_completed_flow_is_near_the_exact_one_and_consistent(small, count):
    """With the flow that DIS estimates, as `weights=small` runs; in one go."""
    clip = load(sample_clip(count))
    holes = prepare_masks(clip.masks > 0, (128, 160), dilation=4)
    wide, left_out = widen_masks(holes, MASK_MARGIN)
    assert not left_out
    hole, masks = (torch.from_numpy(x)[None, :, None].float() for x in (holes, wide))
    frames = torch.from_numpy(clip.frames)[None].permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    flows = DisFlowEstimator()(frames, lambda done, total: None)
    completed = complete_flow(small.flow_completion, flows, masks, subvideo_length=count)
    exact = (torch.from_numpy(x)[None] for x in sample_clip(count).exact_flow())
    for flow, truth, inside in zip(completed, exact, (hole[:, :-1] > 0, hole[:, 1:] > 0), strict=True):
        error_px = lengths(flow - truth)[inside]
        assert error_px.mean() < 0.1 and error_px.max() < 0.5
        # Each frame by itself: it does not grow with the number of frames.
        by_frame = [lengths(flow - truth)[:, t][inside[:, t]].mean() for t in range(count - 1)]
        assert np.max(by_frame) < 0.3
    flow_f, flow_b = completed
    returned = warp(flow_b[0], flow_to_grid(flow_f[0]))[None]
    assert lengths(flow_f + returned)[hole[:, :-1] > 0].max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("count", LENGTHS)
def test_flow_without_any_motion_in_common_stays_bounded(small, count):
    """Noise of many pixels: no affine motion explains it, and all of it goes into the recurrence."""
    flow = 20 * torch.randn(1, count - 1, 2, 64, 72, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(1, count, 1, 64, 72)
    masks[..., 16:48, 20:52] = 1
    for predicted in predict_flow(small.flow_completion, (flow, -flow), masks):
        by_frame = predicted.abs().amax((0, 2, 3, 4))
        assert by_frame.isfinite().all()
        assert by_frame.max() < flow.abs().max()
