"""Flow completion equals the golden data, in one go and in sub-videos."""

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


def test_flow_completion_in_subvideos(networks, golden):
    data = golden.tensors("flow_completion_tiled")
    hole = data["masks"] > 0
    flows = data["flow_f"], data["flow_b"]
    masks = data["masks"].expand(1, flows[0].shape[1] + 1, 1, -1, -1)
    completed = complete_flow(networks.flow_completion, flows, masks, int(data["subvideo_length"]))
    for got, flow, name in zip(completed, flows, ("in_hole_f", "in_hole_b"), strict=True):
        assert difference(got[..., hole], data[name]) < TOLERANCE
        assert torch.equal(got[..., ~hole], flow[..., ~hole])
