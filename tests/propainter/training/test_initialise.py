"""First weights: what they keep, and what they leave alone."""

import copy

import pytest
import torch

from propainter.models.networks import build_networks
from propainter.training.initialise import kaiming


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return build_networks("small")


@torch.no_grad()
def spread(generator, frames):
    """Return how much the encoder's features differ from place to place."""
    holes = torch.zeros(*frames.shape[:2], 1, *frames.shape[3:])
    return generator.encode(frames, holes, holes).std((3, 4)).mean().item()


@torch.no_grad()
def test_the_encoder_still_shows_its_input(networks):
    frames = torch.rand(1, 2, 3, 64, 64) * 2 - 1
    drawn = copy.deepcopy(networks.generator)
    kaiming(drawn)
    assert spread(networks.generator, frames) < 0.01
    assert 0.05 < spread(drawn, frames) < 1


def test_offsets_and_a_residual_networks_last_layer_begin_at_zero(networks):
    for network in (copy.deepcopy(networks.generator), copy.deepcopy(networks.flow_completion)):
        kaiming(network)
        assert not network.last_layer.weight.any()
        assert not network.last_layer.bias.any()
        offsets = [x for name, x in network.named_parameters() if "conv_offset.6" in name]
        assert offsets
        assert not any(x.any() for x in offsets)


def test_flow_is_then_the_dominant_motion(networks):
    network = copy.deepcopy(networks.flow_completion).eval()
    kaiming(network)
    flow = torch.full((1, 3, 2, 32, 40), 1.5)
    masks = torch.zeros(1, 3, 1, 32, 40)
    masks[..., 8:16, 8:24] = 1
    with torch.no_grad():
        torch.testing.assert_close(network(flow * (1 - masks), masks), flow, atol=1e-4, rtol=0)
