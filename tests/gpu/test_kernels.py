"""Kernels that only a GPU has, and sizes that only a GPU refuses."""

import copy

import pytest
import torch
from support.flows import random_lookup
from torchvision.models.optical_flow.raft import CorrBlock

from propainter import estimate_flow
from propainter.models.raft import GRID_SAMPLE_MAX_ROWS
from variants.reuse.corr_lookup import BidirectionalCorrelation


def lookup(features: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    return BidirectionalCorrelation(CorrBlock(num_levels=4, radius=4), features).index_pyramid(coords)


@torch.inference_mode()
def test_a_lookup_of_more_rows_than_cudnn_takes_is_that_of_fewer(device):
    seeded = torch.Generator().manual_seed(0)
    pairs, height, width = 65, 16, 32
    assert 2 * pairs * height * width > GRID_SAMPLE_MAX_ROWS
    features = torch.randn(pairs + 1, 16, height, width, generator=seeded).to(device)
    coords = (torch.rand(2 * pairs, 2, height, width, generator=seeded) * 40 - 4).to(device)
    got = lookup(features, coords)
    few = lookup(features[:4], torch.cat([coords[:3], coords[pairs : pairs + 3]]))
    assert got.isfinite().all()
    assert torch.allclose(got[:3], few[:3], atol=1e-4)
    assert torch.allclose(got[pairs : pairs + 3], few[3:], atol=1e-4)


@pytest.mark.cuda_only
@torch.inference_mode()
def test_published_flow_of_more_rows_than_cudnn_takes(on_device, device):
    frames = torch.rand(1, 209, 3, 128, 160, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    assert GRID_SAMPLE_MAX_ROWS < 208 * 16 * 20
    flow_f, flow_b = estimate_flow(on_device.raft, frames, iterations=1)
    few, _ = estimate_flow(on_device.raft, frames[:, :3], iterations=1)
    assert flow_f.isfinite().all() and flow_b.isfinite().all()
    assert (flow_f[:, :2] - few).abs().max() <= 1e-2 * few.abs().max()


TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Largest difference of Triton's kernels from float32, in units of the largest value."""


@pytest.mark.cuda_only
@pytest.mark.parametrize("on_demand", [False, True], ids=["in the volume", "on demand"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@torch.inference_mode()
def test_triton_looks_up_as_torchvision(device, dtype, on_demand):
    import variants.kernels.triton_corr  # noqa: F401  # gives the operations their kernels
    from variants.correlation import OnDemand
    from variants.kernels.corr_op import windows, windows_on_demand

    first, second, coords = (x.to(device) for x in random_lookup((31, 54), batch=3, channels=256))
    published = CorrBlock(num_levels=4, radius=4)
    published.build_pyramid(first, second)
    expected = published.index_pyramid(coords)
    if on_demand:
        block = OnDemand(4, 4)
        block.build_pyramid(first.to(dtype), second.to(dtype))
        got = windows_on_demand(block.features, [rows for _, rows in block.levels], 4, coords)
    else:
        got = windows([volume.to(dtype) for volume in published.corr_pyramid], 4, coords)
    assert (got.float() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.cuda_only
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@torch.inference_mode()
def test_triton_aligns_as_torchvision(on_device, device, dtype, layout):
    from variants.kernels.triton_deform import TritonAlignment

    align = copy.deepcopy(on_device.generator.feat_prop_module.deform_align["backward_1"])
    by_triton = TritonAlignment(align)
    seeded = torch.Generator().manual_seed(0)
    channels, groups = align.weight.shape[1], 16
    shapes = (2, channels, 30, 54), (2, 27 * groups, 30, 54), (2, 2, 30, 54)
    x, predicted, flow = (torch.randn(*shape, generator=seeded).to(device) for shape in shapes)
    x, predicted = (part.to(dtype).contiguous(memory_format=layout) for part in (x, predicted))
    expected = by_triton.by_torch(align, x.float(), predicted.float(), 3 * flow)
    got = by_triton(align, x, predicted, 3 * flow)
    assert got.dtype == dtype
    assert (got.float() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


def random(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> torch.Tensor:
    """In channels_last."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.cuda_only
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@torch.inference_mode()
def test_triton_warps_as_torch(device, dtype):
    from propainter.models.warp import flow_to_grid, warp
    from variants.kernels.triton_warp import warp as by_triton

    x, flow = random(2, 128, 30, 54, dtype=dtype, device=device), random(2, 2, 30, 54, dtype=dtype, device=device)
    grid = flow_to_grid(5 * flow.float())
    expected, got = warp(x.float(), grid), by_triton(x, grid)
    assert got.dtype == dtype
    assert (got.float() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.cuda_only
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@torch.inference_mode()
def test_triton_adds_biases_as_torch(device, dtype):
    from variants.kernels.triton_bias import bias_act, torch_bias_act

    x, bias = random(2, 96, 31, 54, dtype=dtype, device=device), torch.randn(96).to(device, dtype)
    for given in (x, x.contiguous()):
        expected = torch_bias_act(given.float().clone(), bias.float(), 0.2)
        got = bias_act(given.clone(), bias, 0.2)
        assert got.dtype == dtype
        assert (got.float() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.cuda_only
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@torch.inference_mode()
def test_triton_runs_recurrent_units_as_torch(device, dtype):
    import variants.kernels.triton_gru  # noqa: F401  # gives the operations their kernels
    from variants.kernels.gru_op import blend, gates
    from variants.reuse import conv_gru

    channels = {"summed": 256, "share": 256, "state": 128, "motion": 128}
    given = [
        random(2, count, 30, 54, dtype=dtype, device=device, seed=seed) for seed, count in enumerate(channels.values())
    ]
    new, share = (random(2, 128, 30, 54, dtype=dtype, device=device, seed=seed) for seed in (8, 9))
    update, inputs = gates(*(x.clone() for x in given))
    pairs = list(zip((update, inputs), conv_gru.gates(*(x.float().clone() for x in given)), strict=True))
    state = given[2]
    blended = conv_gru.blend(new.float().clone(), share.float(), state.float(), update.float())
    pairs.append((blend(new.clone(), share, state, update), blended))
    for got, expected in pairs:
        assert got.dtype == dtype
        assert (got.float() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
