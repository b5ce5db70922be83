"""oneDNN's convolutions in their own layout, and in place of linear layers (for `kernels=cpu`).

For linear layers they are faster than the matrix products of a BLAS library or of oneDNN (docs/performance.md).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.models.transformer import PADDING, PATCH, STRIDE, SoftSplit
from variants.components import wrap


def convolve_linear_layers(module: nn.Module) -> int:
    """Let all linear layers in a module compute by `linear`, and return their number."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        wrap(layer, partial(linear, layer))
    return len(layers)


def in_channels_last(network: nn.Module) -> None:
    """Convert a network's convolution weights to channels_last; torch then converts the inputs."""
    layouts = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}
    for layer in network.modules():
        for kind, layout in layouts.items():
            if isinstance(layer, kind):
                weight = layer.weight.contiguous(memory_format=layout)
                layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Compute a linear layer of x [..., C] by a 1x1 convolution, without a copy: rows are an image in channels_last."""
    image = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    output = F.conv2d(image, layer.weight[:, :, None, None], layer.bias)
    return output.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def split(ss: SoftSplit, features: Tensor) -> Tensor:
    """Compute `SoftSplit` without its patches: unfolding and a linear layer are one convolution.

    features: [B, T, C, h, w] -> [B, T, fh, fw, hidden].
    """
    layer = ss.embedding
    weight = layer.weight.view(layer.out_features, -1, PATCH, PATCH)
    tokens = F.conv2d(features.flatten(0, 1), weight, layer.bias, stride=STRIDE, padding=PADDING)
    return tokens.permute(0, 2, 3, 1).contiguous().unflatten(0, features.shape[:2])
