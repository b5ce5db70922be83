"""How many frames or windows go through a layer together (for `reuse`)."""

import torch
from torch import Tensor

from propainter.flow_completion import Decode

TEMPORARY_BYTES = {"cpu": 16 * 2**20}
"""By device type, the bound of one temporary tensor. On the CPU, glibc maps anything over 32 MiB anew each time it is
allocated, and the kernel clears every page of it again."""

TEMPORARY_BYTES_ELSEWHERE = 512 * 2**20


def entries_together(device: torch.device, entry_bytes: int) -> int:
    """How many entries of `entry_bytes` each fit the bound of a temporary tensor; at least one."""
    return max(1, TEMPORARY_BYTES.get(device.type, TEMPORARY_BYTES_ELSEWHERE) // entry_bytes)


class FewTogether:
    """Decodes completed flow a few frames at a time: its features at full size take more than all others.

    Args:
        said: `frames_together` of the latest call is written there.
    """

    def __init__(self, said: dict[str, int]) -> None:
        self.said = said

    def __call__(self, decode: Decode, eighth: Tensor, quarter: Tensor) -> Tensor:
        """Stands in for `propainter.flow_completion.all_together`."""
        largest = 8 * quarter[0].nbytes
        step = self.said["frames_together"] = min(len(quarter), entries_together(quarter.device, largest))
        return torch.cat([decode(*some) for some in zip(eighth.split(step), quarter.split(step), strict=True)])
