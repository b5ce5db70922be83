"""The sampled deformable convolution equals torchvision's in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import deform_conv2d

from propainter.models.layers import DeformableAlignment
from propainter.training.deform_conv import sampled_deform_conv, use_sampled_deform_conv


def arguments(size, groups=16, per_group=1, count=2, outputs=3, bias=True, reach=3.0) -> list[torch.Tensor | None]:
    """Input, offset, weight, bias and mask, with gradients; offsets that lead out of the picture, too."""
    generator = torch.Generator().manual_seed(size[0] * 31 + size[1])

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).float().requires_grad_()

    channels = groups * per_group
    offset = (drawn(count, 18 * groups, *size).detach() * reach).requires_grad_()
    weight = drawn(outputs, channels, 3, 3)
    mask = drawn(count, 9 * groups, *size).detach().sigmoid().requires_grad_()
    return [drawn(count, channels, *size), offset, weight, drawn(outputs) if bias else None, mask]


def values_and_gradients(convolution, given: list[torch.Tensor | None]) -> list[torch.Tensor]:
    x, offset, weight, bias, mask = given
    output = convolution(x, offset, weight, bias, padding=1, mask=mask)
    # A loss of which each output has another share.
    share = torch.linspace(-1, 1, output.numel()).view_as(output)
    return [output, *torch.autograd.grad((output * share).sum(), [one for one in given if one is not None])]


def assert_equal(given: list[torch.Tensor | None]) -> None:
    ours, theirs = (values_and_gradients(convolution, given) for convolution in (sampled_deform_conv, deform_conv2d))
    for got, expected in zip(ours, theirs, strict=True):
        assert (got - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


@settings(max_examples=20, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    groups=st.sampled_from([1, 2, 16]),
    per_group=st.integers(1, 3),
    bias=st.booleans(),
)
def test_equals_torchvision(size, groups, per_group, bias):
    assert_equal(arguments(size, groups, per_group, bias=bias))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_sides_of_one(size):
    """What lies outside counts as zero there, too."""
    assert_equal(arguments(size, reach=0.7))


def test_no_offset_is_an_ordinary_convolution():
    x, offset, weight, bias, mask = arguments((11, 13))
    got = sampled_deform_conv(x, torch.zeros_like(offset), weight, bias, mask=torch.ones_like(mask))
    assert torch.allclose(got, torch.nn.functional.conv2d(x, weight, bias, padding=1), atol=1e-4)


def test_computes_in_float32_under_autocast():
    given = arguments((6, 7))
    x, offset, weight, bias, mask = given
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = sampled_deform_conv(x, offset, weight, bias, mask=mask)
    assert got.dtype == torch.float32
    assert torch.equal(got, sampled_deform_conv(x, offset, weight, bias, mask=mask))


def test_an_alignment_uses_it():
    torch.manual_seed(0)
    alignment = DeformableAlignment(32, 16, 8, max_offset=5)
    torch.nn.init.normal_(alignment.conv_offset[-1].weight, std=0.1)
    x, condition, flow = torch.randn(1, 32, 9, 11), torch.randn(1, 8, 9, 11), torch.randn(1, 2, 9, 11)
    expected = alignment(x, condition, flow)
    assert use_sampled_deform_conv(alignment) is alignment
    assert alignment.deform_conv is sampled_deform_conv
    assert torch.allclose(alignment(x, condition, flow), expected, atol=1e-5)
