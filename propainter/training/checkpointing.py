"""Gradient checkpointing: keep a part's input and compute the part again in the backward pass."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from propainter.errors import InputError
from propainter.models.flow_completion import FlowCompletion
from propainter.models.generator import Generator

LEVELS = ("none", "blocks", "all")
"""none; blocks: the transformer's; all: also encoder, propagation and decoder, and the completion's parts."""


def apply_checkpointing(network: nn.Module, level: str) -> nn.Module:
    """Make the parts of a network keep their inputs alone between forward and backward; return the network.

    By `torch.utils.checkpoint`, not reentrant. Losses and gradients stay the same. Call it once.

    Raises:
        InputError: an unknown level.
    """
    if level not in LEVELS:
        raise InputError(f"checkpointing is {level!r}; give {', '.join(LEVELS)}")
    for part in _parts(network, level):
        # partial and the bound method survive copy.deepcopy, a nested function would keep the original's weights.
        part.forward = partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)
    return network


def _parts(network: nn.Module, level: str) -> Iterator[nn.Module]:
    if level == "none":
        return
    if isinstance(network, Generator):
        yield from network.transformers.transformer
        if level == "all":
            yield from (network.encoder, network.feat_prop_module, network.decoder)
    elif isinstance(network, FlowCompletion) and level == "all":
        first: Any = network.encoder1[0]
        rest = network.encoder1[1:]
        yield from (network.downsample, first.conv1, first.conv2)
        yield from (part for part in rest if any(True for _ in part.parameters()))
        yield from (network.encoder2, network.mid_dilation, network.feat_prop_module)
        yield from (network.decoder2, network.decoder1, network.upsample)
