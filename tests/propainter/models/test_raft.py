"""RAFT: flow equals the golden data, wrong frames are refused."""

import pytest
import torch
from support.golden import TOLERANCE, difference, thinned

from propainter import estimate_flow


def test_flow(networks, golden):
    data = golden.tensors("raft")
    flow_f, flow_b = estimate_flow(networks.raft, data["frames"][None] / 127, iterations=6)
    assert difference(thinned(flow_f)[0], data["flow"]) < TOLERANCE
    assert difference(thinned(flow_b)[0], data["flow_b"]) < TOLERANCE


def test_flow_of_too_small_frames(networks):
    with pytest.raises(ValueError, match="120x128"):
        estimate_flow(networks.raft, torch.zeros(1, 2, 3, 120, 128))
