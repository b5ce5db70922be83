"""How many frames or windows go through a layer together (for `reuse`)."""

import torch

TEMPORARY_BYTES = {"cpu": 16 * 2**20}
"""By device type, the bound of one temporary tensor. On the CPU, glibc maps anything over 32 MiB anew each time it is
allocated, and the kernel clears every page of it again."""

TEMPORARY_BYTES_ELSEWHERE = 512 * 2**20


def entries_together(device: torch.device, entry_bytes: int) -> int:
    """How many entries of `entry_bytes` each fit the bound of a temporary tensor; at least one."""
    return max(1, TEMPORARY_BYTES.get(device.type, TEMPORARY_BYTES_ELSEWHERE) // entry_bytes)
