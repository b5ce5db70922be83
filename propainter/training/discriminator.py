"""The temporal patch discriminator, T-PatchGAN (https://arxiv.org/abs/1904.10247, section 3.3)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (32, 64, 128, 128, 128, 128)


class Discriminator(nn.Module):
    """Judge each patch of a clip as real or inpainted: six 3-D convolutions with spectral norm.

    Args:
        widths: channels of the convolutions' results; the published ones by default.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            layers.append(spectral_norm(nn.Conv3d(inputs, outputs, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2))))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, frames: Tensor) -> Tensor:
        """Judge clips.

        Args:
            frames: [B, T, 3, H, W] in [-1, 1].

        Returns:
            [B, widths[-1], T, H/64, W/64], rounded up: above 0 for real. On the CPU always float32: the gradient of a
            bfloat16 3-D convolution whose frames are one pixel large is not finite there (torch 2.15, oneDNN).
        """
        if frames.device.type != "cpu":
            return self.layers(frames.transpose(1, 2))
        with torch.autocast("cpu", enabled=False):
            return self.layers(frames.transpose(1, 2).float())
