"""Layers on a region: the pixels of the layers on the whole image."""

import pytest
import torch

from propainter.models.layers import UpConv, conv3x3, leaky
from variants.reuse.regions import Span, cut, needed, through


@pytest.mark.parametrize(
    ("rows", "columns"), [((16, 32), (16, 48)), ((0, 16), (32, 64)), ((32, 48), (0, 64)), ((0, 48), (0, 64))]
)
def test_layers_around_a_region(rows, columns):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(conv3x3(4, 6), leaky(), UpConv(6, 5), leaky(), conv3x3(5, 4), leaky(), UpConv(4, 2))
    x, region = torch.randn(2, 4, 12, 16), (Span(*rows, 48), Span(*columns, 64))
    got = through(layers, cut(x, needed(layers, region)), region)
    assert torch.allclose(got, cut(layers(x.clone()), region), atol=1e-5)
