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
        tensor = self._tensors[name]
        return tensor[:, entries] if isinstance(entries, slice) else take(tensor, entries)

    def drop(self, *names: str) -> None:
        """Free tensors after their last use. The published residency ignores this."""


def take(tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    """Return entries of [1, T, ...] by number, [1, n, ...]: a view where the numbers are consecutive.

    Slices need no index on the device. A list would be copied there from pageable memory, for which the host waits.
    """
    parts = [tensor[:, run] for run in consecutive(numbers)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def consecutive(numbers: Sequence[int]) -> list[slice]:
    """Return the runs of consecutive numbers, in order; [3, 4, 5, 0] gives 3:6 and 0:1, no numbers give 0:0."""
    found = [slice(0, 0)] if not numbers else []
    for number in numbers:
        if found and number == found[-1].stop:
            found[-1] = slice(found[-1].start, number + 1)
        else:
            found.append(slice(number, number + 1))
    return found
