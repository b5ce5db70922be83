"""The discriminator's shapes, widths and norm."""

import torch
from torch import nn

from propainter.training.discriminator import Discriminator


def test_shapes_and_layers_are_the_published():
    discriminator = Discriminator()
    convolutions = [layer for layer in discriminator.layers if isinstance(layer, nn.Conv3d)]
    assert [layer.out_channels for layer in convolutions] == [32, 64, 128, 128, 128, 128]
    assert {(layer.kernel_size, layer.stride) for layer in convolutions} == {((3, 5, 5), (1, 2, 2))}
    with torch.no_grad():
        assert discriminator(torch.rand(2, 3, 3, 64, 96)).shape == (2, 128, 3, 1, 2)


def test_weights_have_spectral_norm_one():
    discriminator = Discriminator((4, 8))
    for _ in range(20):  # the power iteration makes a step in each call
        discriminator(torch.rand(1, 2, 3, 16, 16))
    for layer in discriminator.eval().layers:
        if isinstance(layer, nn.Conv3d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() < 1.2


def test_frames_are_judged_in_their_order():
    discriminator = Discriminator((4, 8)).eval()
    clip = torch.rand(1, 4, 3, 16, 16)
    with torch.no_grad():
        assert not discriminator(clip).equal(discriminator(clip.flip(1)).flip(2))


def test_gradients_under_autocast_are_finite_down_to_one_pixel():
    """A bfloat16 3-D convolution's gradient is not, on the CPU, where a frame has become one pixel."""
    discriminator = Discriminator()
    for _ in range(3):
        discriminator.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            discriminator(torch.rand(4, 3, 3, 32, 32)).mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in discriminator.parameters())
