"""Shared layers: sizes, and deformable alignment around a flow."""

import torch
import torch.nn.functional as F

from propainter.models.layers import DeformableAlignment, UpConv, conv3x3


def test_sizes():
    x = torch.rand(2, 4, 10, 12)
    assert conv3x3(4, 6)(x).shape == (2, 6, 10, 12)
    assert conv3x3(4, 6, stride=2)(x).shape == (2, 6, 5, 6)
    assert UpConv(4, 6)(x).shape == (2, 6, 20, 24)


def test_alignment_starts_as_half_an_ordinary_convolution():
    """No offset, and a modulation of sigmoid(0)."""
    align = DeformableAlignment(4, 6, condition=5, max_offset=3, groups=2)
    x = torch.rand(2, 4, 10, 12)
    expected = F.conv2d(x, align.weight, align.bias, padding=1) / 2
    assert torch.allclose(align(x, torch.rand(2, 5, 10, 12)), expected, atol=1e-5)


def test_alignment_follows_the_flow():
    """The same flow everywhere: the result moves by it, x before y."""
    align = DeformableAlignment(4, 6, condition=5, max_offset=3, groups=2)
    x, condition = torch.rand(1, 4, 16, 16), torch.rand(1, 5, 16, 16)
    flow = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    still, moved = align(x, condition), align(x, condition, flow)
    assert torch.allclose(moved[..., 2:-1, 1:-3], still[..., 1:-2, 3:-1], atol=1e-5)


def test_a_replaced_alignment_gets_the_module_and_the_predicted_offsets():
    align, seen = DeformableAlignment(4, 6, condition=5, max_offset=3, groups=2), []
    align.align = lambda *inputs: seen.append(inputs) or inputs[1]
    x, condition = torch.rand(1, 4, 16, 16), torch.rand(1, 5, 16, 16)
    assert align(x, condition) is x
    module, given, predicted, flow = seen[0]
    assert (module, given, predicted.shape, flow) == (align, x, (1, 54, 16, 16), None)


def test_offsets_are_bounded():
    offsets = []
    align = DeformableAlignment(4, 6, condition=5, max_offset=3, groups=2)
    for parameter in align.conv_offset[-1].parameters():
        torch.nn.init.normal_(parameter, std=100)
    align.deform_conv = lambda x, offset, *args, **options: offsets.append(offset) or x
    align(torch.rand(1, 4, 16, 16), torch.rand(1, 5, 16, 16))
    assert offsets[0].abs().max() == 3
