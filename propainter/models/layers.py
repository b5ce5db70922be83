"""Layers that flow completion and generator share (docs/model.md, Conventions)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.models.lazy_torchvision import deform_conv2d


def leaky(slope: float = 0.2) -> nn.LeakyReLU:
    """Return an in-place LeakyReLU; the default slope is the published one."""
    return nn.LeakyReLU(slope, inplace=True)


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, divided by the stride."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups)


def conv_pair(inputs: int, outputs: int, slope: float) -> nn.Sequential:
    """Return the `backbone` of a propagation: 3x3 convolution, LeakyReLU, 3x3 convolution."""
    return nn.Sequential(conv3x3(inputs, outputs), leaky(slope), conv3x3(outputs, outputs))


class UpConv(nn.Module):
    """Double the size by bilinear interpolation with aligned corners, then convolve 3x3 ("up2conv")."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv3x3(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        # x: [N, C, H, W] -> [N, outputs, 2H, 2W]
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class DeformableAlignment(nn.Module):
    """Align features by a modulated deformable 3x3 convolution, its offsets predicted from a condition.

    docs/model.md, Conventions, and sections 2 and 3c. The convolution is DCNv2 (https://arxiv.org/abs/1811.11168).

    Args:
        inputs: channels of the features to align.
        channels: channels of the result, and of the layers that predict the offsets.
        condition: channels of the condition.
        max_offset: bound of the predicted offsets, in pixels.
        groups: deformable groups.

    Attributes:
        align: samples at the predicted offsets, and convolves; replaceable by a callable with the same arguments.
        deform_conv: torchvision's `deform_conv2d`; replaceable by a callable with the same arguments.
    """

    def __init__(self, inputs: int, channels: int, condition: int, max_offset: float, groups: int = 16) -> None:
        super().__init__()
        self.max_offset = max_offset
        self.align: Callable[[DeformableAlignment, Tensor, Tensor, Tensor | None], Tensor] = align
        self.deform_conv = deform_conv2d
        self.weight = nn.Parameter(torch.empty(channels, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        last = conv3x3(channels, 27 * groups)
        self.conv_offset = nn.Sequential(
            conv3x3(condition, channels),
            leaky(0.1),
            conv3x3(channels, channels),
            leaky(0.1),
            conv3x3(channels, channels),
            leaky(0.1),
            last,
        )
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        # Training starts from an ordinary convolution: no offset, even modulation.
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor, flow: Tensor | None = None) -> Tensor:
        """Align features.

        Args:
            x: [N, inputs, H, W].
            condition: [N, condition, H, W].
            flow: [N, 2, H, W] in pixels, added to the predicted offsets; None for zero.

        Returns:
            [N, channels, H, W].
        """
        return self.align(self, x, self.conv_offset(condition), flow)


def align(module: DeformableAlignment, x: Tensor, predicted: Tensor, flow: Tensor | None) -> Tensor:
    """Sample x at the predicted positions, and convolve: the published `DeformableAlignment.align`.

    Args:
        module: has the weights.
        x: [N, inputs, H, W].
        predicted: [N, 27 * groups, H, W] from `conv_offset`: offsets as (y, x) pairs, then modulations.
        flow: as in `DeformableAlignment.forward`.

    Returns:
        [N, channels, H, W].
    """
    third = predicted.shape[1] // 3
    offset, modulation = predicted.split([2 * third, third], dim=1)
    offset = module.max_offset * torch.tanh(offset)
    if flow is not None:
        # Offsets come as (y, x) pairs, flow as (x, y).
        offset = offset + flow.flip(1).repeat(1, offset.shape[1] // 2, 1, 1)
    return module.deform_conv(x, offset, module.weight, module.bias, padding=1, mask=torch.sigmoid(modulation))
