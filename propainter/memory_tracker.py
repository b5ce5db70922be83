"""Measure peak memory: of the CUDA allocator, or of the process's resident set."""

import threading
from pathlib import Path

import psutil
import torch

from propainter.allocator import release_memory

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class VramPeak:
    """Measure the peak of allocated CUDA memory since `reset`, weights included."""

    kind = "vram"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)

    def reserved_bytes(self) -> int:
        """Return the peak since `reset` of the memory that torch's allocator reserved on the GPU, used or not."""
        return torch.cuda.max_memory_reserved(self.device)

    def level_bytes(self) -> dict[str, int]:
        allocated, reserved = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        return {"allocated": allocated, "reserved": reserved}

    def close(self) -> None:
        pass


class RssPeak:
    """Measure the peak of the resident set since `reset`, above the level at construction; Linux only.

    The peak is the kernel's high-water mark (VmHWM in /proc/self/status), less the pages of mapped files that are
    resident at the reading. Such pages (code of libraries) come at their first use, and the kernel may take them back
    at any time. Writing 5 to /proc/self/clear_refs resets the mark to the present level.
    """

    kind = "rss"

    def __init__(self) -> None:
        release_memory()
        self.level = _without_files("VmRSS")

    @staticmethod
    def available() -> bool:
        """Return whether this kernel has the mark and can reset it."""
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
    """Measure as `RssPeak` does, by sampling every 5 ms in a thread: for systems without a resettable mark.

    Pages of mapped files count: not every system reports them separately.
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


def memory_peak(device: torch.device) -> MemoryPeak:
    """Return a tracker of the device's memory: CUDA's on a GPU, else the process's."""
    return VramPeak(device) if device.type == "cuda" else host_peak()


def host_peak() -> RssPeak | SampledRssPeak:
    """Return a tracker of the process's memory: the kernel's mark if available, else samples."""
    return RssPeak() if RssPeak.available() else SampledRssPeak()
