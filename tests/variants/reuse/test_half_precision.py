"""`reuse` in half precision: what is done once, or in another dtype, under autocast, beside the plain path."""

import copy

import pytest
import torch
from support.reusing import clip, hole_psnr, video_tensor
from torchvision.models.optical_flow.raft import CorrBlock
from torchvision.ops import deform_conv2d

from propainter import Networks, Pipeline, Schedule, build_networks
from propainter.models.flow_completion import complete_flow
from variants import precision, reuse
from variants.reuse.corr_lookup import BidirectionalCorrelation
from variants.reuse.dedup_flow import Updates
from variants.reuse.deform_conv import sampled_deform_conv

QUICK = Schedule(raft_iterations=3, neighbor_length=4, ref_stride=3)
ROUNDING = 2**-8
"""Of bfloat16, of a value of its own size."""


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def narrow() -> Networks:
    """Networks of the published form and few channels; tests must not change them."""
    torch.manual_seed(0)
    return build_networks(
        raft=dict(encoder_layers=(16, 16, 24, 32, 64), hidden_size=32, corr_layers=(32, 24), flow_layers=(16, 8)),
        flow_completion=dict(channels=16),
        generator=dict(channels=32, hidden=64, depth=3, heads=2, mlp_hidden=98),
    )


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_lookup_casts_the_volume_once_and_gives_the_same():
    features = torch.randn(3, 64, 16, 20, generator=torch.Generator().manual_seed(0))
    coords = torch.rand(4, 2, 16, 20, generator=torch.Generator().manual_seed(1)) * 20 - 1
    with autocast():
        plain, once = CorrBlock(), CorrBlock()
        lookup = BidirectionalCorrelation(once, features)
        plain.build_pyramid(features[:-1], features[1:])
        expected = plain.index_pyramid(coords[:2])
        got = lookup.index_pyramid(coords)
    assert {volume.dtype for volume in plain.corr_pyramid} == {torch.bfloat16}
    assert {volume.dtype for volume in once.corr_pyramid} == {torch.float32}
    assert got.dtype == torch.float32
    assert (got[:2] - expected).abs().max() < 1e-4


def test_coordinates_stay_in_float32(narrow, monkeypatch):
    """The network computes in bfloat16; where a pixel has moved to is summed up in float32."""
    asked, index, computed, conv = [], BidirectionalCorrelation.index_pyramid, [], Updates.begin

    def noting(self, coords):
        asked.append(coords.dtype)
        return index(self, coords)

    def begin(self, context):
        step, hidden = conv(self, context)
        computed.append(hidden.dtype)
        return step, hidden

    monkeypatch.setattr(BidirectionalCorrelation, "index_pyramid", noting)
    monkeypatch.setattr(Updates, "begin", begin)
    estimator = reuse.flow(Pipeline(narrow, QUICK)).flow_estimator
    with autocast():
        flows = estimator(video_tensor(3))
    assert set(asked) == {torch.float32} and set(computed) == {torch.bfloat16}
    assert {flow.dtype for flow in flows} == {torch.float32}


def test_deformable_convolution():
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 16, 12, 14, generator=random), torch.randn(8, 16, 3, 3, generator=random)
    offset, bias = 3 * torch.randn(2, 4 * 18, 12, 14, generator=random), torch.randn(8, generator=random)
    mask = torch.rand(2, 4 * 9, 12, 14, generator=random)
    expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    with autocast():
        half = sampled_deform_conv(x, offset, weight, bias, padding=1, mask=mask)
    assert half.dtype == torch.bfloat16
    assert (half - expected).abs().max() < 4 * ROUNDING * expected.abs().max()
    assert sampled_deform_conv(x, offset, weight, bias, padding=1, mask=mask).dtype == torch.float32


@pytest.mark.parametrize("everything", [False, True])
def test_whole(narrow, everything):
    """Within bfloat16's rounding of the published schedule in the same dtypes, and of float32."""
    video, masks = clip(6)
    reference = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
    plain = precision.amp(Pipeline(copy.deepcopy(narrow), QUICK), everything=everything)(video, masks)
    output = reuse.exact(precision.amp(Pipeline(copy.deepcopy(narrow), QUICK), everything=everything))(video, masks)
    assert hole_psnr(output, plain, masks) > 40
    assert hole_psnr(output, reference, masks) > 40


def test_completed_flow_keeps_its_precision_outside_the_hole():
    flows = tuple(torch.randn(1, 2, 2, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    masks = torch.zeros(1, 3, 1, 16, 16)
    masks[..., 8:, :] = 1
    for flow, given in zip(complete_flow(lambda flow, masks: flow.bfloat16(), flows, masks), flows, strict=True):
        assert torch.equal(flow[..., :8, :], given[..., :8, :])
