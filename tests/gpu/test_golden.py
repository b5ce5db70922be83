"""The golden data on the device, in float32 without TF32."""

import copy

import numpy as np
import pytest
import torch
from support.golden import difference, thinned

from propainter import estimate_flow, inpaint, propagate_pixels
from propainter.models.flow_completion import predict_flow

TOLERANCE = 1e-3
"""Largest difference, in units of the largest golden value. On a CPU it is 2e-5; cuDNN may choose Winograd's algorithm,
and RAFT's updates amplify its rounding."""

LEAST_DB = 50
"""PSNR in the hole of the whole pipeline; 60 on a CPU."""


@pytest.fixture(scope="module")
def published(networks, device):
    return copy.deepcopy(networks).to(device)


@pytest.fixture
def data(golden, device):
    return lambda name: {key: value.to(device) for key, value in golden.tensors(name).items()}


@torch.inference_mode()
def test_flow(published, data):
    raft = data("raft")
    flow_f, flow_b = estimate_flow(published.raft, raft["frames"][None] / 127, iterations=6)
    assert difference(thinned(flow_f)[0], raft["flow"]) < TOLERANCE
    assert difference(thinned(flow_b)[0], raft["flow_b"]) < TOLERANCE


@torch.inference_mode()
def test_completion(published, data):
    given = data("flow_completion")
    predicted = predict_flow(published.flow_completion, (given["flow_f"], given["flow_b"]), given["masks"])
    for got, name in zip(predicted, ("pred_f", "pred_b"), strict=True):
        assert difference(thinned(got), given[name]) < TOLERANCE


@torch.inference_mode()
def test_propagation(data):
    given = data("propagation")
    frames, masks = given["frames"] / 127, given["masks"]
    filled, remaining = propagate_pixels(frames * (1 - masks), (given["flow_f"], given["flow_b"]), masks)
    # By nearest neighbour: a position between two pixels may round to the other one.
    assert ((filled * 127).round() != given["prop_frames"]).float().mean() < 5e-3
    assert (remaining != given["updated_masks"]).float().mean() < 5e-3


@torch.inference_mode()
def test_generator(published, data):
    given = data("generator_filled")
    flows, count = (given["flow_f"], given["flow_b"]), int(given["num_local_frames"])
    output = published.generator(given["frames"] / 127, flows, given["masks"], given["updated_masks"], count)
    assert difference(thinned(output), given["output"]) < TOLERANCE


def test_pipeline(published, golden):
    given = golden.arrays("pipeline_short")
    masks, hole = given["masks"], given["dilated_masks"] > 0
    frames = golden.frames("pipeline_short", len(masks))
    output = inpaint(published, frames, masks, raft_iterations=6, neighbor_length=6, ref_stride=4)
    assert np.array_equal(output[~hole], frames[~hole])
    error = output[hole].astype(float) - given["output_in_hole"]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > LEAST_DB
