"""The columns of a deformable convolution by torchvision: what `variants.kernels.triton_deform` computes."""

import torch

from propainter.models.layers import DeformableAlignment


def columns(x, predicted, bias, flow, max_offset, dtype):
    """Sample with torchvision: a convolution by a weight that selects each tap of each channel."""
    channels = x.shape[1]
    align = DeformableAlignment(channels, channels=1, condition=1, max_offset=max_offset, groups=1)
    align.weight = torch.nn.Parameter(torch.eye(9).view(9, 1, 3, 3).repeat(channels, 1, 1, 1))
    align.bias = torch.nn.Parameter(torch.zeros(9 * channels))
    flow = None if flow is None else flow.float()
    sampled = align.align(
        align, x.float(), predicted.float() + bias.float().view(-1, 1, 1), flow
    )  # channels, then taps
    return sampled.unflatten(1, (channels, 9)).permute(0, 3, 4, 2, 1).flatten(3).flatten(1, 2).to(dtype)
