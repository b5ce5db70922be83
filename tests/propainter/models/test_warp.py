"""Warping and consistency of flow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from propainter.models.warp import flow_to_grid, forward_backward_consistency, warp


@settings(max_examples=20, deadline=None)
@given(shift=st.tuples(st.integers(-6, 6), st.integers(-6, 6)), seed=st.integers(0, 99))
def test_warp_by_whole_pixels_shifts(shift, seed):
    x = torch.from_numpy(np.random.default_rng(seed).random((1, 2, 16, 20), dtype=np.float32))
    dx, dy = shift
    flow = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 16, 20)
    expected = torch.zeros_like(x)
    rows = slice(max(0, -dy), min(16, 16 - dy))
    columns = slice(max(0, -dx), min(20, 20 - dx))
    source = slice(rows.start + dy, rows.stop + dy), slice(columns.start + dx, columns.stop + dx)
    expected[..., rows, columns] = x[..., source[0], source[1]]
    for mode in ("bilinear", "nearest"):
        assert torch.allclose(warp(x, flow_to_grid(flow), mode), expected, atol=1e-4)
    inside = torch.zeros(1, 1, 16, 20)
    inside[..., rows, columns] = 1
    # There and back again, where the way does not lead out of the picture.
    assert torch.equal(forward_backward_consistency(flow, -flow, flow_to_grid(flow)) * inside, inside)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_warp_in_half_precision_reads_its_own_pixels(dtype, mode, layout):
    x = torch.rand(1, 3, 256, 256).to(dtype).to(memory_format=layout)  # more pixels than 15 bits count
    warped = warp(x, flow_to_grid(torch.zeros(1, 2, 256, 256, dtype=dtype)), mode)
    assert torch.equal(warped[..., ::255, ::255], x[..., ::255, ::255])
