"""oneDNN's convolutions at their fastest (for `kernels=cpu`): in their own layout, and in place of linear layers, where
they are faster than a BLAS library's products or oneDNN's."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.models.transformer import PADDING, PATCH, STRIDE, SoftSplit
from variants.components import wrap


def convolve_linear_layers(module: nn.Module) -> int:
    """Have all linear layers in a module compute as `linear`; returns how many there are."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        wrap(layer, partial(linear, layer))
    return len(layers)


def in_channels_last(network: nn.Module) -> None:
    """Keep a network's convolution weights with the channels innermost; what they are convolved with follows."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
        elif isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer of x [..., C] by a 1x1 convolution, without a copy: tokens in a row are an image in channels_last."""
    image = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    output = F.conv2d(image, layer.weight[:, :, None, None], layer.bias)
    return output.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def split(ss: SoftSplit, features: Tensor) -> Tensor:
    """What `SoftSplit` gives, without its patches: cutting patches and a linear layer are a convolution.

    features: [B, T, C, h, w] -> [B, T, fh, fw, hidden].
    """
    layer = ss.embedding
    weight = layer.weight.view(layer.out_features, -1, PATCH, PATCH)
    tokens = F.conv2d(features.flatten(0, 1), weight, layer.bias, stride=STRIDE, padding=PADDING)
    return tokens.permute(0, 2, 3, 1).contiguous().unflatten(0, features.shape[:2])
