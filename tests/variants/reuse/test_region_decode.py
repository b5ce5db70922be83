"""Flow completion decoded around the hole only: the published flow in the hole."""

import copy

import pytest
import torch
from support.reusing import QUICK

from propainter import Pipeline
from propainter.models.flow_completion import complete_flow
from variants import reuse
from variants.reuse.batching import TEMPORARY_BYTES


class TestRegionFlowDecoder:
    @pytest.mark.slow
    @pytest.mark.parametrize("hole", ["still", "moving", "at the edge", "large"])
    @pytest.mark.parametrize("together", [1, 2, 9])
    def test_flow_is_the_published(self, narrow, monkeypatch, hole, together):
        flows = tuple(torch.randn(1, 4, 2, 128, 136, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
        masks = torch.zeros(1, 5, 1, 128, 136)
        for t in range(5):
            by = 14 * t if hole == "moving" else 0
            masks[0, t, 0, 40 + by : 60 + by, 50:80] = 1
        if hole == "at the edge":
            masks[:, :2], masks[..., 110:, 100:] = 0, 1
            masks[:, 2] = 0
        if hole == "large":
            masks[..., 2:126, 3:130] = 1
        full_size = 128 * 136 * narrow.flow_completion.downsample[0].out_channels * 4
        monkeypatch.setitem(TEMPORARY_BYTES, "cpu", together * full_size)
        expected = complete_flow(narrow.flow_completion, flows, masks)
        pipeline = reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK))
        for got, wanted in zip(complete_flow(pipeline.networks.flow_completion, flows, masks), expected, strict=True):
            assert torch.allclose(got, wanted, atol=1e-4)

    def test_pixels_away_from_the_hole_are_not_computed(self, narrow):
        pipeline = reuse.exact(Pipeline(copy.deepcopy(narrow), QUICK))
        network, pixels = pipeline.networks.flow_completion, []
        network.upsample[-1].conv.register_forward_hook(
            lambda module, inputs, output: pixels.append(output[0, 0].numel())
        )
        masks = torch.zeros(1, 3, 1, 128, 136)
        masks[..., 40:60, 50:80] = 1
        network(torch.randn(1, 3, 2, 128, 136), masks)
        assert sum(pixels) / len(pixels) < 0.25 * 128 * 136
