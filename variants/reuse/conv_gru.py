"""RAFT's recurrent units without what their convolutions repeat (for `reuse=flow`)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.optical_flow.raft import ConvGRU

from propainter.models.raft import Flows


class Gating(NamedTuple):
    """What a recurrent unit does between its convolutions (seam): see the functions `gates` and `blend`."""

    gates: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    blend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def gates(summed: Tensor, share: Tensor, state: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """The update gate, and what the new state is computed from.

    Args:
        summed: [N, 2C, h, w], the convolution of state and motion for both gates, update first; may be overwritten.
        share: the same of the context, biases included.
        state, motion: [N, C, h, w] and [N, M, h, w].

    Returns:
        [N, C, h, w], and [reset * state, motion], [N, C + M, h, w].
    """
    update, reset = summed.add_(share).sigmoid_().chunk(2, dim=1)
    return update, torch.cat([reset * state, motion], dim=1)


def blend(summed: Tensor, share: Tensor, state: Tensor, update: Tensor) -> Tensor:
    """The next state, of the old and the new by the update gate; each [N, C, h, w], `summed` and `share` as above."""
    return torch.lerp(state, summed.add_(share).tanh_(), update)


TORCH = Gating(gates, blend)


class SplitGRU:
    """A convolutional GRU whose update and reset gates are one convolution, without the context's channels.

    Args:
        gru: fed [hidden, context, motion].
        hidden, motion: channels of the first and the last of them.
        gating: what lies between the convolutions.
    """

    def __init__(self, gru: ConvGRU, hidden: int, motion: int, gating: Gating = TORCH) -> None:
        self.padding, self.gating = gru.convz.padding, gating

        def split(convs: list[nn.Conv2d]) -> tuple[Tensor, Tensor, Tensor]:
            weight, bias = (torch.cat([getattr(conv, name) for conv in convs]) for name in ("weight", "bias"))
            context = weight[:, hidden : weight.shape[1] - motion]
            moving = torch.cat([weight[:, :hidden], weight[:, weight.shape[1] - motion :]], dim=1)
            return moving, context.contiguous(), bias

        self.gates, self.gates_context, self.gates_bias = split([gru.convz, gru.convr])
        self.new, self.new_context, self.new_bias = split([gru.convq])

    def of_context(self, context: Tensor) -> Flows:
        """What the context adds to the gates and to the new state, biases included."""
        return (
            F.conv2d(context, self.gates_context, self.gates_bias, padding=self.padding),
            F.conv2d(context, self.new_context, self.new_bias, padding=self.padding),
        )

    def __call__(self, state: Tensor, motion: Tensor, share: Flows) -> Tensor:
        """The next state [N, hidden, h, w]."""
        summed = F.conv2d(torch.cat([state, motion], dim=1), self.gates, padding=self.padding)
        update, inputs = self.gating.gates(summed, share[0], state, motion)
        summed = F.conv2d(inputs, self.new, padding=self.padding)
        return self.gating.blend(summed, share[1], state, update)
