"""Building blocks that flow completion and generator share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter.models.lazy_torchvision import deform_conv2d


def leaky(slope: float = 0.2) -> nn.LeakyReLU:
    """LeakyReLU of the published slope (0.2 unless said otherwise)."""
    return nn.LeakyReLU(slope, inplace=True)


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (or divides it by the stride)."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups)


def conv_pair(inputs: int, outputs: int, slope: float) -> nn.Sequential:
    """The `backbone` of a propagation: two 3x3 convolutions with a LeakyReLU between."""
    return nn.Sequential(conv3x3(inputs, outputs), leaky(slope), conv3x3(outputs, outputs))


class UpConv(nn.Module):
    """ "up2conv": bilinear x2 with aligned corners, then a 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv3x3(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        # x: [N, C, H, W] -> [N, outputs, 2H, 2W]
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class DeformableAlignment(nn.Module):
    """Modulated deformable 3x3 convolution whose offsets and modulation are predicted from a condition.

    docs/model.md, sections 2 and 3c. `reach` bounds the learned offsets, in pixels.

    Args:
        inputs: channels of what is aligned.
        channels: channels of the result, and of the layers that predict the offsets.
        condition: channels of the condition.
        groups: deformable groups.

    Attributes:
        deform_conv: torchvision's `deform_conv2d`, or something that takes the same arguments (seam).
    """

    def __init__(self, inputs: int, channels: int, condition: int, max_offset: float, groups: int = 16) -> None:
        super().__init__()
        self.max_offset = max_offset
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
        """Align x [N, inputs, H, W] by condition [N, condition, H, W], around flow [N, 2, H, W] where given."""
        first, second, modulation = self.conv_offset(condition).chunk(3, dim=1)
        offset = self.max_offset * torch.tanh(torch.cat((first, second), dim=1))
        if flow is not None:
            # Offsets come as (y, x) pairs, flow as (x, y).
            offset = offset + flow.flip(1).repeat(1, offset.shape[1] // 2, 1, 1)
        return self.deform_conv(x, offset, self.weight, self.bias, padding=1, mask=torch.sigmoid(modulation))
