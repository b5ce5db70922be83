"""Storage of a run's tensors between stages and windows."""

from collections.abc import Sequence

import torch
from torch import Tensor


class DeviceStorage:
    """Keep tensors on the device until the run ends: the published residency, and the interface of a storage.

    Tensors are [1, T, C, H, W], flows with T - 1 entries, under the pipeline's names.

    Args:
        device: the networks' device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._tensors: dict[str, Tensor] = {}

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor under this name."""
        self._tensors[name] = tensor

    def get(self, name: str, entries: slice | Sequence[int] = slice(None)) -> Tensor:
        """Return a tensor, or some of its T entries, on the device."""
        return self._tensors[name][:, entries]

    def drop(self, *names: str) -> None:
        """Free tensors after their last use. The published residency ignores this."""
