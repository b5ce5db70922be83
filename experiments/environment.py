"""Where a run took place."""

import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

from propainter import InputError

_ROOT = Path(__file__).resolve().parent.parent


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N` as a device.

    Raises:
        InputError: an unknown name, or a GPU that is not there.
    """
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise InputError(f"device is {name!r}; give auto, cpu, cuda or cuda:N")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise InputError(
            f"device is {name!r}, but torch {torch.__version__} sees {count} CUDA device(s); give device=cpu, or "
            "check the driver and the torch build"
        )
    return torch.device("cuda", int(index or 0))


@cache
def device_name(device: torch.device) -> str:
    """The device's own name: "NVIDIA H100 80GB HBM3", "Intel(R) Xeon(R) ..."."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or "cpu"


def describe(device: torch.device) -> dict[str, str | None]:
    """The record's `environment`."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": commit(),
    }


@cache
def commit() -> str | None:
    """The project's git commit, with "-dirty" where tracked files differ; None outside a checkout."""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=12", "--dirty", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
