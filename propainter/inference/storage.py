"""Where a run's tensors are kept between stages and windows."""

from collections.abc import Sequence

import torch
from torch import Tensor


class DeviceStorage:
    """The published residency, and the interface of the seam: on the device, nothing freed before the run ends.

    Tensors are [1, T, C, H, W] (flows with T - 1 entries), under the names that the pipeline gives them.

    Args:
        device: where the networks are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._tensors: dict[str, Tensor] = {}

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor."""
        self._tensors[name] = tensor

    def get(self, name: str, entries: slice | Sequence[int] = slice(None)) -> Tensor:
        """A tensor, or some of its T entries, on the device."""
        return self._tensors[name][:, entries]

    def drop(self, *names: str) -> None:
        """These are not needed any more. The published code keeps them all the same."""
