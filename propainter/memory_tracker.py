"""Peak memory of a stretch of a run: the CUDA allocator's, or the process's resident set."""

import ctypes
import gc
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from propainter.errors import InputError

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")

LARGEST_FROM_HEAP_BYTES = 32 * 2**20
"""glibc maps larger allocations from the system one by one, always."""

KERNELS_KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""oneDNN's environment variable: of how many kernels it keeps the code; 1,024 by default."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class VramPeak:
    """Peak of CUDA memory in use since `reset`: `peak_bytes()` counts everything allocated, weights included."""

    kind = "vram"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)

    def reserved_bytes(self) -> int:
        """Peak of what torch's allocator held of the GPU, used or not, since `reset`."""
        return torch.cuda.max_memory_reserved(self.device)

    def level_bytes(self) -> dict[str, int]:
        allocated, reserved = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        return {"allocated": allocated, "reserved": reserved}

    def close(self) -> None:
        pass


class RssPeak:
    """Peak of the resident set since `reset`, above the level at construction, by the kernel's high-water mark.

    Pages of mapped files (the libraries' code) are left out as far as they are resident when the peak is read: the
    kernel brings them in when they are first used, and may take them back at any time.

    Linux only: writing 5 to clear_refs sets the mark back to the present level.
    """

    kind = "rss"

    def __init__(self) -> None:
        release_memory()
        self.level = _without_files("VmRSS")

    @staticmethod
    def available() -> bool:
        try:
            _CLEAR_REFS.write_text("5")
        except OSError:
            return False
        return {"VmHWM", "VmRSS", "RssFile"} <= _status().keys()

    def reset(self) -> None:
        _CLEAR_REFS.write_text("5")

    def peak_bytes(self) -> int:
        return max(0, _without_files("VmHWM") - self.level)

    def level_bytes(self) -> dict[str, int]:
        return {"resident": _without_files("VmRSS")}

    def close(self) -> None:
        pass


def _status() -> dict[str, str]:
    return dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())


def _without_files(figure: str) -> int:
    status = _status()
    kibibytes = {name: int(status[name].split()[0]) for name in (figure, "RssFile")}
    return (kibibytes[figure] - kibibytes["RssFile"]) * 1024


class SampledRssPeak:
    """As `RssPeak`, by looking every 5 ms from a thread: for systems without a mark that can be reset.

    Pages of mapped files count, since not every system tells them apart.
    """

    kind = "rss"

    def __init__(self) -> None:
        release_memory()
        self.process = psutil.Process()
        self.level = self.peak = self.process.memory_info().rss
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.stop.wait(0.005):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def reset(self) -> None:
        self.peak = self.process.memory_info().rss

    def peak_bytes(self) -> int:
        self.peak = max(self.peak, self.process.memory_info().rss)
        return max(0, self.peak - self.level)

    def level_bytes(self) -> dict[str, int]:
        return {"resident": self.process.memory_info().rss}

    def close(self) -> None:
        self.stop.set()
        self.thread.join()


MemoryPeak = VramPeak | RssPeak | SampledRssPeak


def release_memory() -> None:
    """Drop what Python no longer reaches, and give freed memory back: kept, it would hide a later peak."""
    gc.collect()
    malloc_trim()


def malloc_trim() -> None:
    """Return freed memory to the system where the C library keeps it (glibc), in some milliseconds.

    What is kept lies in gaps, which later tensors fit or not: a long run's heap grows by them. Of what other threads
    than the main one have freed, glibc keeps the end of their heaps all the same.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


@contextmanager
def mmap_threshold(from_bytes: int = 2**20) -> Iterator[int | None]:
    """Inside, memory of a freed tensor of that size or more goes back to the system at once (glibc).

    glibc raises the size from which it maps memory from the system to that of the largest mapping freed so far, up to
    32 MiB. Smaller tensors come from its heap, where what a long run holds lies scattered between what it has freed:
    the heap grows, though what is in use does not. Pages of a mapping are cleared by the kernel each time, which costs
    time, the more so the smaller `from_bytes` is.

    Yields:
        `from_bytes`; None where the C library is another one, and nothing was done. Afterwards the size is fixed at
        32 MiB, where it ends by itself.
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
    """Inside, memory of a freed tensor under 32 MiB stays with the process for the next one (glibc).

    Otherwise glibc gives the end of its heap back once 64 MiB of it are free, and a network that makes and drops
    tensors of some MiB has the kernel clear the same pages over and over: a tenth of a float32 run's processor time.

    Yields:
        Whether it is so; not where the C library is another one. Afterwards what was kept is given back.
    """
    kept = _set_option(_M_MMAP_THRESHOLD, LARGEST_FROM_HEAP_BYTES) and _set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield kept
    finally:
        if kept:
            _restore_options()
            malloc_trim()


def _set_option(name: int, value: int) -> bool:
    """Set one of glibc's options; False where that can't be done."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    return bool(set_option and set_option(name, value))


def _restore_options() -> None:
    """Where glibc's own adjustment ends after a while; it makes none once an option has been set."""
    _set_option(_M_MMAP_THRESHOLD, LARGEST_FROM_HEAP_BYTES)
    _set_option(_M_TRIM_THRESHOLD, 2 * LARGEST_FROM_HEAP_BYTES)


def set_onednn_cache_capacity(most: int = 64) -> int:
    """Let oneDNN keep the code of its latest `most` kernels only, each made for one size of tensors.

    It reads the variable before its first kernel of the process, and not again. One that is dropped is made anew when
    it is needed, in about 0.3 ms.

    Returns:
        What the variable says: another number where it was set before.

    Raises:
        InputError: it was set to what is no whole number.
    """
    value = os.environ.setdefault(KERNELS_KEPT, str(most))
    if not value.isdecimal():
        raise InputError(f"{KERNELS_KEPT} is {value!r} in the environment; give a whole number, or leave it out")
    return int(value)


def memory_peak(device: torch.device) -> MemoryPeak:
    """The memory figure that counts on this device."""
    return VramPeak(device) if device.type == "cuda" else host_peak()


def host_peak() -> RssPeak | SampledRssPeak:
    """The process's own memory, by the best means that the system has."""
    return RssPeak() if RssPeak.available() else SampledRssPeak()
