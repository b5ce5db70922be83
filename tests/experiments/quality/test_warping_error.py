"""The warping error, against a computation of its own by torch and by loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.quality.warping_error import valid_flow, warp, warping_error


def smooth(seed: int, *shape: int) -> np.ndarray:
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, shape, mode="bicubic")[0].permute(1, 2, 0) * 255).numpy()


def by_torch(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    height, width = flow.shape[1:]
    y, x = np.indices((height, width))
    grid = np.stack([2 * (x + flow[0]) / (width - 1) - 1, 2 * (y + flow[1]) / (height - 1) - 1], -1)
    tensor = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    read = torch.nn.functional.grid_sample(
        tensor, torch.from_numpy(grid)[None].double(), padding_mode="border", align_corners=True
    )
    return read[0].permute(1, 2, 0).numpy()


def test_warping_is_bilinear_and_takes_the_border_outside():
    flow = np.random.default_rng(0).normal(0, 4, (2, 20, 24))
    image = smooth(1, 20, 24)
    assert np.allclose(warp(image, flow), by_torch(image, flow), atol=1e-6)


def test_error_is_the_mean_over_valid_values_then_pairs():
    rng = np.random.default_rng(0)
    frames = np.stack([smooth(seed, 12, 16) for seed in range(3)])
    flow, valid = rng.normal(0, 2, (2, 2, 12, 16)), rng.random((2, 12, 16)) < 0.5
    expected = []
    for t in range(2):
        difference = (by_torch(frames[t + 1] / 255, flow[t]) - frames[t] / 255) ** 2 * valid[t][..., None]
        expected.append(difference.sum() / (3 * valid[t].sum()))
    assert warping_error(frames, flow, valid) == pytest.approx(np.mean(expected), rel=1e-6)


def test_pairs_without_a_valid_pixel_are_left_out():
    frames = np.stack([smooth(seed, 12, 16) for seed in range(3)])
    flow, valid = np.zeros((2, 2, 12, 16)), np.zeros((2, 12, 16), bool)
    assert warping_error(frames, flow, valid) is None
    valid[1] = True
    assert warping_error(frames, flow, valid) == pytest.approx(np.mean(((frames[2] - frames[1]) / 255) ** 2))


@settings(max_examples=20, deadline=None)
@given(st.integers(-3, 3), st.integers(-3, 3))
def test_a_picture_that_moves_by_its_flow_has_no_error(dx, dy):
    whole = smooth(3, 30, 34)
    frames = np.stack([whole[5:25, 5:29], whole[5 - dy : 25 - dy, 5 - dx : 29 - dx]])
    flow = np.broadcast_to(np.array([dx, dy], np.float32)[:, None, None], (1, 2, 20, 24))
    y, x = np.indices((20, 24))
    inside = (y + dy >= 0) & (y + dy < 20) & (x + dx >= 0) & (x + dx < 24)
    assert warping_error(frames, flow, inside[None]) < 1e-12
    # Forward and backward agree everywhere, and a constant flow has no border.
    assert valid_flow(flow, -flow).all()


def test_occlusions_and_borders_by_loops():
    rng = np.random.default_rng(2)
    there, back = rng.normal(0, 1.5, (1, 2, 9, 11)), rng.normal(0, 1.5, (1, 2, 9, 11))
    there[0, :, :4], back[0, :, :4] = 1.0, -1.0  # a part that agrees
    returned = np.moveaxis(by_torch(np.moveaxis(back[0], 0, -1), there[0]), -1, 0)
    expected = np.zeros((9, 11), bool)
    for y in range(9):
        for x in range(11):
            f, b = there[0, :, y, x], returned[:, y, x]
            occluded = ((f + b) ** 2).sum() > 0.01 * ((f**2).sum() + (b**2).sum()) + 0.5
            right = ((there[0, :, y, x + 1] - f) ** 2).sum() if x < 10 else 0
            below = ((there[0, :, y + 1, x] - f) ** 2).sum() if y < 8 else 0
            expected[y, x] = not occluded and right + below <= 0.01 * (f**2).sum() + 0.002
    found = valid_flow(there, back)[0]
    assert np.array_equal(found, expected) and 0 < found.sum() < found.size
