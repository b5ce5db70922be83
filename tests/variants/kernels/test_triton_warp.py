"""Triton's warping, interpreted: the numbers of grid_sample."""

import pytest
import torch
from support.gpu.triton_interpreter import cubin

from propainter.models.warp import flow_to_grid, warp

pytest.importorskip("triton")

from variants.kernels import triton_warp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gives_what_grid_sample_gives(interpreted, dtype, layout):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 9, 13, generator=random).to(dtype).contiguous(memory_format=layout)
    for spread in (0, 3, 1e4):
        grid = flow_to_grid(spread * torch.randn(2, 2, 9, 13, generator=random))
        got, expected = interpreted(triton_warp.launch_warp, x, grid), warp(x.float(), grid)
        assert got.dtype == dtype
        assert got.is_contiguous(memory_format=torch.channels_last)
        # The interpreter cuts bfloat16 off where a GPU rounds.
        tolerance = max(torch.finfo(dtype).eps * expected.abs().max(), 2e-6)
        assert (got.float() - expected).abs().max() <= tolerance


def test_borders_and_what_is_no_number(interpreted):
    x, flow = torch.rand(1, 3, 4, 8) + 1, torch.zeros(1, 2, 4, 8)
    flow[0, 0] = torch.tensor([-2.5, -1.5, -1, -0.5, 0.25, 1.5, 1, 0.999])
    flow[0, 1, 3] = 0.5
    flow[0, :, 1, 4], flow[0, 0, 2, 5] = float("nan"), float("inf")
    grid = flow_to_grid(flow)
    got = interpreted(triton_warp.launch_warp, x, grid)
    numbers = grid.isfinite().all(-1)[:, None].expand_as(x)
    assert torch.allclose(got[numbers], warp(x, grid)[numbers], atol=1e-6)
    assert not got[~numbers].any()


@pytest.mark.slow
def test_compiles_for_a_gpu():
    pointers = {"x": "*bf16", "grid": "*fp32", "output": "*bf16"}
    constants = dict(CHANNELS=128, CHANNELS_PADDED=128, PIXELS=32, x_c=1)
    kernel = triton_warp.warp_kernel
    others = dict.fromkeys(set(kernel.arg_names) - set(pointers) - set(constants), "i32")
    assert len(cubin(kernel, {**pointers, **others}, constants, 80)) > 1000
