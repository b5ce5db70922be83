"""Flow completion equals the golden data, in one go and in sub-videos."""

import pytest
import torch
from support.golden import TOLERANCE, difference, thinned

from propainter import complete_flow
from propainter.models.flow_completion import predict_flow


def test_flow_completion(networks, golden):
    data = golden.tensors("flow_completion")
    flows = data["flow_f"], data["flow_b"]
    predicted = predict_flow(networks.flow_completion, flows, data["masks"])
    for got, name in zip(predicted, ("pred_f", "pred_b"), strict=True):
        assert difference(thinned(got), data[name]) < TOLERANCE


@pytest.mark.slow
def test_flow_completion_in_subvideos(networks, golden):
    data = golden.tensors("flow_completion_tiled")
    hole = data["masks"] > 0
    flows = data["flow_f"], data["flow_b"]
    masks = data["masks"].expand(1, flows[0].shape[1] + 1, 1, -1, -1)
    completed = complete_flow(networks.flow_completion, flows, masks, int(data["subvideo_length"]))
    for got, flow, name in zip(completed, flows, ("in_hole_f", "in_hole_b"), strict=True):
        assert difference(got[..., hole], data[name]) < TOLERANCE
        assert torch.equal(got[..., ~hole], flow[..., ~hole])


def test_completed_flow_keeps_its_precision_outside_the_hole():
    flows = tuple(torch.randn(1, 2, 2, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    masks = torch.zeros(1, 3, 1, 16, 16)
    masks[..., 8:, :] = 1
    for flow, given in zip(complete_flow(lambda flow, masks: flow.bfloat16(), flows, masks), flows, strict=True):
        assert torch.equal(flow[..., :8, :], given[..., :8, :])
