"""Kernels that only a GPU has, and sizes that only a GPU refuses."""

import copy

import pytest
import torch
from support.flows import random_lookup
from torchvision.models.optical_flow.raft import CorrBlock

from propainter import estimate_flow
from variants.reuse.corr_lookup import BidirectionalCorrelation

LIMIT = 65_536
"""Rows from which on cuDNN's grid_sample fails."""


def lookup(features: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    return BidirectionalCorrelation(CorrBlock(num_levels=4, radius=4), features).index_pyramid(coords)


@torch.inference_mode()
def test_a_lookup_of_more_rows_than_cudnn_takes_is_that_of_fewer(device):
    random = torch.Generator().manual_seed(0)
    pairs, height, width = 65, 16, 32
    assert 2 * pairs * height * width > LIMIT
    features = torch.randn(pairs + 1, 16, height, width, generator=random).to(device)
    coords = (torch.rand(2 * pairs, 2, height, width, generator=random) * 40 - 4).to(device)
    got = lookup(features, coords)
    few = lookup(features[:4], torch.cat([coords[:3], coords[pairs : pairs + 3]]))
    assert got.isfinite().all()
    assert torch.allclose(got[:3], few[:3], atol=1e-4)
    assert torch.allclose(got[pairs : pairs + 3], few[3:], atol=1e-4)


@pytest.mark.cuda_only
@torch.inference_mode()
def test_published_flow_of_more_rows_than_cudnn_takes(on_device, device):
    frames = torch.rand(1, 209, 3, 128, 160, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    assert LIMIT < 208 * 16 * 20
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
    random = torch.Generator().manual_seed(0)
    channels, groups = align.weight.shape[1], 16
    shapes = (2, channels, 30, 54), (2, 27 * groups, 30, 54), (2, 2, 30, 54)
    x, predicted, flow = (torch.randn(*shape, generator=random).to(device) for shape in shapes)
    x, predicted = (part.to(dtype).contiguous(memory_format=layout) for part in (x, predicted))
    expected = by_triton.by_torch(x.float(), predicted.float(), 3 * flow)
    got = by_triton(x, predicted, 3 * flow)
    assert got.dtype == dtype
    assert (got.float() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
