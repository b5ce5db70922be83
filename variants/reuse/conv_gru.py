"""RAFT's recurrent units without the repeated part of their convolutions (for `reuse=flow`)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.optical_flow.raft import ConvGRU

from propainter.models.raft import Flows


class Gating(NamedTuple):
    """Replaceable operations of a recurrent unit between its convolutions; see the functions `gates` and `blend`."""

    gates: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    blend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def gates(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the update gate, and the input of the new state's convolution.

    Args:
        summed: [N, 2C, h, w], the convolution of state and motion for both gates, update first; may be overwritten.
        share: the convolution of the context for both gates, biases included; same shape.
        state: [N, C, h, w].
        motion: [N, M, h, w].

    Returns:
        The update gate [N, C, h, w], and [reset * state, motion] concatenated, [N, C + M, h, w].
    """
    update, reset = summed.add_(share).sigmoid_().chunk(2, dim=1)
    return update, torch.cat([reset * state, motion], dim=1)


def blend(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    """Blend the old and the new state by the update gate; each [N, C, h, w], `summed` and `share` as in `gates`."""
    return torch.lerp(state, summed.add_(share).tanh_(), update)


TORCH = Gating(gates, blend)


def is_channels_last(weight: Tensor) -> bool:
    """Return whether a convolution's weight is stored with its channels last.

    `torch._prims_common.suggest_memory_format` tells it too, and imports sympy for it: half a second of every run.
    """
    return weight.stride(1) == 1 < weight.stride(-1)


class SplitGRU:
    """Compute a convolutional GRU with one convolution for update and reset gates, without the context's channels.

    Args:
        gru: torchvision's unit, with the input channels [hidden, context, motion].
        hidden: number of hidden channels.
        motion: number of motion channels.
        gating: operations between the convolutions.
    """

    def __init__(self, gru: ConvGRU, hidden: int, motion: int, gating: Gating = TORCH) -> None:
        self.padding, self.gating = gru.convz.padding, gating

        def split(convs: list[nn.Conv2d]) -> tuple[Tensor, Tensor, Tensor]:
            weight, bias = (torch.cat([getattr(conv, name) for conv in convs]) for name in ("weight", "bias"))
            context = weight[:, hidden : weight.shape[1] - motion]
            moving = torch.cat([weight[:, :hidden], weight[:, weight.shape[1] - motion :]], dim=1)
            stored = torch.channels_last if is_channels_last(weight) else torch.contiguous_format
            return moving, context.contiguous(memory_format=stored), bias

        self.gates, self.gates_context, self.gates_bias = split([gru.convz, gru.convr])
        self.new, self.new_context, self.new_bias = split([gru.convq])

    def of_context(self, context: Tensor) -> Flows:
        """Return the context's share of the gates and of the new state, biases included."""
        return (
            F.conv2d(context, self.gates_context, self.gates_bias, padding=self.padding),
            F.conv2d(context, self.new_context, self.new_bias, padding=self.padding),
        )

    def __call__(self, state: Tensor, motion: Tensor, share: Flows) -> Tensor:
        """Return the next state [N, hidden, h, w]."""
        summed = F.conv2d(torch.cat([state, motion], dim=1), self.gates, padding=self.padding)
        update, inputs = self.gating.gates(summed, share[0], state, motion)
        summed = F.conv2d(inputs, self.new, padding=self.padding)
        return self.gating.blend(summed, share[1], state, update)
