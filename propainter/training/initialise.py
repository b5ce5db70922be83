"""First weights for a training from scratch."""

from typing import Any

from torch import nn

SLOPE = 0.2
"""Of the leaky ReLUs; flow completion has some of 0.1, for which the same factor serves."""


def kaiming(network: nn.Module) -> None:
    """Draw the convolutions' weights so that a signal keeps its variance from layer to layer; biases become 0.

    PyTorch's own shrink it by a factor of about 1.7 a layer: behind the generator's encoder 0.7% are left,
    and a short training ends before the network sees its input. Layers that begin at 0 stay so, as the offsets of
    deformable convolutions; a residual network's last layer begins at 0, too: its output is then what it adds to.

    Source: https://arxiv.org/abs/1502.01852, section 2.2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.weight.any():
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if getattr(network, "residual", False):
        last: Any = network.last_layer
        nn.init.zeros_(last.weight)
