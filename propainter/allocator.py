"""Control the memory allocators under torch on the CPU: glibc's heap, oneDNN's kernel cache."""

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from propainter.errors import InputError

LARGEST_HEAP_BLOCK_BYTES = 32 * 2**20
"""glibc maps larger blocks from the system one by one, always (its M_MMAP_THRESHOLD has this upper bound)."""

KERNELS_KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""oneDNN's environment variable: the number of kernels whose code oneDNN keeps; 1,024 by default."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def release_memory() -> None:
    """Collect Python's garbage and trim the heap, so that no leftover hides a later peak."""
    gc.collect()
    malloc_trim()


def malloc_trim() -> None:
    """Return freed memory to the system by glibc's malloc_trim, in some milliseconds; nothing elsewhere.

    glibc keeps freed memory in gaps between live blocks. A later tensor may not fit into any gap, and a long run's heap
    grows. In heaps of other threads glibc keeps the end even so.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


@contextmanager
def mmap_threshold(from_bytes: int = 2**20) -> Iterator[int | None]:
    """Map every tensor of at least `from_bytes` by itself (glibc's M_MMAP_THRESHOLD) inside the block.

    The system gets such a tensor's memory back at once when the tensor is freed. By default glibc raises the threshold
    to the largest mapping freed so far, up to 32 MiB. Smaller tensors then come from the heap, where live blocks lie
    scattered between freed ones: a long run's heap grows, though its live memory does not. The cost: the kernel clears
    the pages of every mapping, so a smaller threshold takes more time.

    Yields:
        `from_bytes`; None with another C library, where nothing was done. After the block the threshold is 32 MiB,
        the value that glibc's own adjustment ends at.
    """
    if not _set_option(_M_MMAP_THRESHOLD, from_bytes):
        yield None
        return
    try:
        yield from_bytes
    finally:
        _restore_options()


@contextmanager
def no_heap_trim() -> Iterator[bool]:
    """Keep freed tensors under 32 MiB in the process (glibc's M_TRIM_THRESHOLD) inside the block.

    By default glibc returns the end of the heap to the system once 64 MiB of it are free. A network that makes and
    frees tensors of some MiB then has the kernel clear the same pages again and again: a tenth of a float32 run's
    processor time.

    Yields:
        True, or False with another C library. After the block the kept memory is returned to the system.
    """
    kept = _set_option(_M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK_BYTES) and _set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield kept
    finally:
        if kept:
            _restore_options()
            malloc_trim()


def _set_option(name: int, value: int) -> bool:
    """Set one of glibc's options by mallopt; return False where that is impossible."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    return bool(set_option and set_option(name, value))


def _restore_options() -> None:
    """Set the values that glibc's own adjustment ends at: glibc adjusts nothing once an option was set."""
    _set_option(_M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK_BYTES)
    _set_option(_M_TRIM_THRESHOLD, 2 * LARGEST_HEAP_BLOCK_BYTES)


def set_onednn_cache_capacity(most: int = 64) -> int:
    """Let oneDNN keep the code of the latest `most` kernels only; each kernel serves one size of tensors.

    oneDNN reads the variable once, before the process's first kernel. A dropped kernel is compiled again at its next
    use, in about 0.3 ms.

    Returns:
        The variable's value: `most`, or the number that the environment already held.

    Raises:
        InputError: the environment holds no whole number.
    """
    value = os.environ.setdefault(KERNELS_KEPT, str(most))
    if not value.isdecimal():
        raise InputError(f"{KERNELS_KEPT} is {value!r} in the environment; give a whole number, or leave it out")
    return int(value)
