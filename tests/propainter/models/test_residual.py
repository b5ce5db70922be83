"""Residual networks: they begin at what needs no training, and stay bounded on clips of any length."""

import pytest
import torch

from propainter.models.dominant_motion import dominant_motion
from propainter.models.flow_completion import FlowCompletion, SecondOrderPropagation, predict_flow
from propainter.models.fusion import fuse
from propainter.models.generator import Generator

NARROW = dict(channels=16, hidden=32, depth=2, heads=2, mlp_hidden=49)


def smooth(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth values from -1 to 1 of shape [..., 64, 72]."""
    coarse = torch.rand(1, int(torch.tensor(shape).prod()), 4, 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (64, 72), mode="bilinear").view(*shape, 64, 72)


def holes(count: int) -> torch.Tensor:
    masks = torch.zeros(1, count, 1, 64, 72)
    masks[..., 20:44, 24:48] = 1
    return masks


class TestGenerator:
    @pytest.fixture
    def inputs(self):
        frames, flow = smooth(1, 5, 3), smooth(1, 2, 2, seed=1)
        masks = holes(5)
        remaining = masks.clone()
        remaining[..., :30, :] = 0
        return frames * (1 - remaining), (flow, -flow), masks, remaining

    def test_begins_at_the_fused_frames(self, inputs):
        frames, flows, masks, remaining = inputs
        torch.manual_seed(0)
        network = Generator(**NARROW, residual=True).eval()
        output = network(frames, flows, masks, remaining, 3)
        fused = fuse(frames[:, :3], flows, masks[:, :3], remaining[:, :3])
        assert output.shape == (1, 3, 3, 64, 72)
        assert 0 < (output - fused).abs().mean() < (output - fused).abs().max() < 0.1
        assert output.abs().max() <= 1

    def test_adds_its_prediction(self, inputs):
        frames, flows, masks, remaining = inputs
        torch.manual_seed(0)
        network = Generator(**NARROW, residual=True).eval()
        network.decoder[-1].bias.copy_(torch.tensor([3.0, 0.0, -0.2]))
        prediction = network.generate(network.encode(frames, masks, remaining), flows, masks[:, :3], remaining[:, :3])
        fused = fuse(frames[:, :3], flows, masks[:, :3], remaining[:, :3])
        output = network(frames, flows, masks, remaining, 3)
        assert torch.equal(output, (fused + prediction).clamp(-1, 1))
        assert (fused + prediction).max() > 1  # and is clamped

    def test_without_it_the_prediction_is_the_output(self, inputs):
        frames, flows, masks, remaining = inputs
        torch.manual_seed(0)
        network = Generator(**NARROW).eval()
        prediction = network.generate(network.encode(frames, masks, remaining), flows, masks[:, :3], remaining[:, :3])
        assert torch.equal(network(frames, flows, masks, remaining, 3), prediction)

    def test_has_the_published_tensors(self):
        """The argument adds no weight, and changes the last layer alone."""
        states = []
        for residual in (False, True):
            torch.manual_seed(0)
            states.append(Generator(**NARROW, residual=residual).state_dict())
        plain, other = states
        assert list(plain) == list(other)
        assert {n for n in plain if not plain[n].equal(other[n])} == {"decoder.6.weight", "decoder.6.bias"}


class TestFlowCompletion:
    def test_begins_at_the_dominant_motion(self):
        torch.manual_seed(0)
        network = FlowCompletion(4, state_limit=5.0, residual=True).eval()
        masks = holes(4)
        flow = smooth(1, 4, 2) * 2 + torch.tensor([6.0, -3.0]).view(1, 1, 2, 1, 1)
        masked = flow * (1 - masks)
        output = network(masked, masks)
        dominant = dominant_motion(masked[0], masks[0])[None]
        assert 0 < (output - dominant).abs().mean() < (output - dominant).abs().max() < 0.3

    def test_any_affine_motion_is_taken_off_its_input(self):
        """A motion more of the whole picture is a motion more of the output."""
        torch.manual_seed(0)
        network = FlowCompletion(4, state_limit=5.0, residual=True).eval()
        network.upsample[-1].conv.weight.mul_(10)
        masks, flow = holes(3), smooth(1, 3, 2)
        more = torch.tensor([12.0, -7.0]).view(1, 1, 2, 1, 1)
        outputs = [network(x * (1 - masks), masks) for x in (flow, flow + more)]
        assert (outputs[0] - outputs[1] + more).abs().max() < 1e-3

    def test_the_hidden_flow_does_not_matter(self):
        torch.manual_seed(0)
        network = FlowCompletion(4, residual=True).eval()
        masks, flow = holes(4), smooth(1, 3, 2)
        results = [predict_flow(network, (x, -x), masks) for x in (flow, flow + 50 * masks[:, 1:])]
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)

    def test_has_the_published_tensors(self):
        states = []
        for options in ({}, {"residual": True, "state_limit": 5.0}):
            torch.manual_seed(0)
            states.append(FlowCompletion(4, **options).state_dict())
        plain, other = states
        assert list(plain) == list(other)
        changed = {n for n in plain if not plain[n].equal(other[n])}
        assert changed == {"upsample.2.conv.weight", "upsample.2.conv.bias"}


def exploding(state_limit: float | None) -> SecondOrderPropagation:
    """A recurrence whose state grows at every frame."""
    torch.manual_seed(0)
    network = SecondOrderPropagation(16, state_limit).eval()
    for backbone in network.backbone.values():
        backbone[-1].weight.mul_(500)
    return network


@pytest.mark.parametrize("count", [24, 80, 160])
def test_a_limited_state_stays_bounded(count):
    """Where the published recurrence diverges."""
    x = torch.randn(1, count, 16, 4, 5, generator=torch.Generator().manual_seed(0))
    limited, published = exploding(5.0), exploding(None)
    output = limited(x)
    # The sum of both limited states, each weight at most once.
    bound = x.abs().max() + limited.fusion.bias.abs().max() + 5 * limited.fusion.weight.abs().sum((1, 2, 3)).max()
    assert output.abs().max() <= bound * 1.0001
    assert not published(x).abs().max() < 1e6


def test_a_wide_limit_changes_little():
    x = torch.randn(1, 6, 16, 8, 9, generator=torch.Generator().manual_seed(0))
    outputs = []
    for limit in (None, 1000.0):
        torch.manual_seed(0)
        outputs.append(SecondOrderPropagation(16, limit).eval()(x))
    assert torch.allclose(*outputs, atol=1e-4)
