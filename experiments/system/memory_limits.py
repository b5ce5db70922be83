"""Limits on the memory of this process: a large GPU stands in for a small one, and a run can't fill the host."""

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from propainter.errors import InputError
from propainter.validation import check_number

if TYPE_CHECKING:
    import torch


def apply_limits(cfg: DictConfig, device: "torch.device") -> int | None:
    """Set `limits.vram_gb` and `limits.host_gb` (GiB each, null for none) on this process.

    Call it before the networks are built. The limits hold until the next call; null restores the process's first ones.
    An allocation over a limit fails: with `torch.OutOfMemoryError` on the GPU, with `MemoryError` or torch's
    RuntimeError on the host.

    Returns:
        The limit in bytes of the memory that the record's `memory` reports: the GPU's on CUDA, else the host's.

    Raises:
        InputError: a limit is no number above 0, or can't be set here.
    """
    vram_bytes, host_bytes = _bytes(cfg, "vram_gb"), _bytes(cfg, "host_gb")
    _limit_vram(vram_bytes, device)
    _limit_host(host_bytes)
    return vram_bytes if device.type == "cuda" else host_bytes


def _bytes(cfg: DictConfig, key: str) -> int | None:
    value = cfg.limits[key]
    if value is None:
        return None
    check_number(f"limits.{key}", value, lambda gib: 0 < gib < 2**30, "a number of GiB over 0, or null for no limit")
    return int(value * 2**30)


def _limit_vram(size: int | None, device: "torch.device") -> None:
    if device.type != "cuda":
        if size is not None:
            raise InputError(f"limits.vram_gb needs CUDA, and the device is {device.type}; give limits.host_gb instead")
        return
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    if size is not None and size > total:
        have = f"{total / 2**30:.1f} GiB"
        raise InputError(f"limits.vram_gb is {size / 2**30:.1f}, but the GPU has {have}; give less, or null")
    # This bounds torch's allocator. The CUDA context and memory of libraries (some 500 MB) are not in it.
    torch.cuda.set_per_process_memory_fraction(1.0 if size is None else size / total, device)


def _limit_host(size: int | None) -> None:
    if sys.platform != "linux":
        if size is not None:
            raise InputError(f"limits.host_gb needs Linux, and this is {sys.platform}; leave it out")
        return
    import resource

    soft, hard = _limit_at_first()
    if size is not None:
        used = _data_bytes()
        if used >= size:
            have = f"{used / 2**30:.2f} GiB before any network is built"
            raise InputError(f"limits.host_gb is {size / 2**30:.2f}, but the process has {have}; give more")
        soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
    # RLIMIT_DATA counts private writable memory: what is allocated. RLIMIT_AS would count address space, of which CUDA
    # reserves hundreds of GB unused, and all of each mapped file.
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@cache
def _limit_at_first() -> tuple[int, int]:
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)


def _data_bytes() -> int:
    """Return the bytes that RLIMIT_DATA counts of this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
