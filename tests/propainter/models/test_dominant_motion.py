"""The dominant motion: an affine flow is found, the larger motion wins, and nothing known gives zero."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from propainter.models.dominant_motion import STEP, dominant_motion

SIZE = (64, 80)


def affine(coefficients, size=SIZE) -> torch.Tensor:
    """[1, 2, H, W]: a + b x + c y in pixels, x and y from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size[0]), torch.linspace(-1, 1, size[1]), indexing="ij")
    return torch.stack([a + b * x + c * y for a, b, c in coefficients])[None]


def hole(size=SIZE, rows=slice(20, 44), columns=slice(24, 56)) -> torch.Tensor:
    masks = torch.zeros(1, 1, *size)
    masks[..., rows, columns] = 1
    return masks


MOTION = affine([(3.0, 0.5, -0.3), (-7.0, 0.2, 0.4)])


@settings(max_examples=25, deadline=None)
@given(
    shift=st.tuples(*2 * [st.floats(-40, 40)]),
    slopes=st.tuples(*4 * [st.floats(-0.5, 0.5)]),
    size=st.sampled_from([(64, 80), (33, 47), (128, 72)]),
    has_hole=st.booleans(),
)
def test_an_affine_flow_is_found(shift, slopes, size, has_hole):
    flow = affine([(shift[0], *slopes[:2]), (shift[1], *slopes[2:])], size)
    height, width = size
    masks = hole(size, slice(height // 3, height // 2), slice(width // 4, width // 2)) * has_hole
    found = dominant_motion(flow + 500 * masks, masks)
    assert (found.shape, found.dtype) == (flow.shape, torch.float32)
    assert (found - flow).abs().max() < 1e-3


def test_agrees_with_numpy_where_nothing_is_known_to_be_near():
    """Without a hole all samples count alike: ordinary least squares of what is no affine flow."""
    generator = torch.Generator().manual_seed(0)
    flow = MOTION + 0.01 * torch.randn(1, 2, *SIZE, generator=generator)
    y, x = (np.linspace(-1, 1, side) for side in SIZE)
    y, x = np.meshgrid(y, x, indexing="ij")
    sampled = slice(STEP // 2, None, STEP)
    design = np.stack([np.ones_like(x), x, y], axis=-1)
    solution, *_ = np.linalg.lstsq(
        design[sampled, sampled].reshape(-1, 3), flow[0, :, sampled, sampled].double().numpy().reshape(2, -1).T
    )
    expected = torch.from_numpy(np.moveaxis(design @ solution, -1, 0))
    assert (dominant_motion(flow, torch.zeros(1, 1, *SIZE))[0] - expected).abs().max() < 1e-3


@pytest.mark.parametrize("has_hole", [False, True])
def test_of_two_motions_the_larger_wins(has_hole):
    """Blocks of the second motion all over the picture: 30% of it."""
    other = MOTION + torch.tensor([6.0, 5.0]).view(1, 2, 1, 1)
    blocks = torch.rand(1, 1, 8, 10, generator=torch.Generator().manual_seed(1)).flatten().argsort() < 24
    is_other = blocks.view(1, 1, 8, 10).float().repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert is_other.mean() == pytest.approx(0.3)
    found = dominant_motion(MOTION * (1 - is_other) + other * is_other, hole() * has_hole)
    assert (found - MOTION).abs().max() < 0.1


def test_of_two_motions_the_one_beside_the_hole_wins():
    """Though the other one has more of the picture."""
    size = (128, 256)
    near, far = affine([(2.0, 0, 0), (1.0, 0, 0)], size), affine([(-6.0, 0, 0), (4.0, 0, 0)], size)
    masks = hole(size, slice(40, 88), slice(20, 50))
    flow = torch.cat([near[..., :116], far[..., 116:]], dim=-1)
    assert (dominant_motion(flow, masks) - near).abs().max() < 0.1


def test_where_all_is_unknown_it_is_zero():
    flow = torch.cat([MOTION, MOTION])
    masks = torch.cat([torch.ones(1, 1, *SIZE), hole()])
    found = dominant_motion(flow * (1 - masks), masks)
    assert found[0].abs().max() == 0
    assert (found[1] - MOTION[0]).abs().max() < 1e-3


@pytest.mark.parametrize("known", [1, 2, 5])
def test_a_few_known_pixels_give_their_own_motion(known):
    """Too few for an affine fit: it stays bounded, and close to what is known. Rounding used to move it by a pixel."""
    masks = torch.ones(1, 1, *SIZE)
    masks[..., 2 : 2 + STEP * known : STEP, 2] = 0
    found = dominant_motion(affine([(5.0, 0, 0), (-3.0, 0, 0)]) * (1 - masks), masks)
    assert (found - torch.tensor([5.0, -3.0]).view(1, 2, 1, 1)).abs().max() < 0.05


def test_a_batch_equals_its_flows_one_by_one():
    generator = torch.Generator().manual_seed(2)
    flow = torch.cat([MOTION, -2 * MOTION, MOTION.flip(1)]) + torch.randn(3, 2, *SIZE, generator=generator)
    masks = torch.cat([hole(), torch.zeros(1, 1, *SIZE), hole(rows=slice(0, 60))])
    single = torch.cat([dominant_motion(flow[i : i + 1], masks[i : i + 1]) for i in range(3)])
    assert torch.allclose(dominant_motion(flow, masks), single, atol=1e-5)


@pytest.mark.parametrize(("dtype", "error_px"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision_in_float32_out(dtype, error_px):
    found = dominant_motion(MOTION.to(dtype), hole().to(dtype))
    assert found.dtype == torch.float32
    assert (found - MOTION).abs().max() < error_px


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (9, 11)])
def test_the_smallest_sizes(size):
    flow = affine([(1.5, 0.0, 0.0), (-0.5, 0.0, 0.0)], size)
    assert (dominant_motion(flow, torch.zeros(1, 1, *size)) - flow).abs().max() < 1e-3


def test_random_flow_of_any_size_is_answered_with_a_bounded_one():
    flow = 300 * torch.randn(2, 2, *SIZE, generator=torch.Generator().manual_seed(3))
    found = dominant_motion(flow, torch.cat([hole(), hole(rows=slice(0, 62))]))
    assert found.isfinite().all()
    assert found.abs().max() < 3 * flow.abs().max()
