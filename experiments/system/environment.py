"""The device, versions and settings of a run."""

import hashlib
import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from experiments.system.git import commit
from experiments.system.nvml import Gpu, NoNvmlError
from experiments.system.openmp import openmp_settings
from propainter import InputError


def choose_device(name: str) -> torch.device:
    """Return the device that `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N` names.

    Raises:
        InputError: an unknown name, or a GPU that torch does not see.
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
    """Return the device's own name: "NVIDIA H100 80GB HBM3", "Intel(R) Xeon(R) ..."."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or "cpu"


PACKAGES = (
    *("numpy", "scipy", "pillow", "torchvision", "triton", "numba", "scikit-image", "lpips", "stlpips-pytorch", "av"),
    "hydra-core",
)
"""Packages other than torch that shape results or times."""


def describe(device: torch.device, count: int = 1) -> dict[str, Any]:
    """Return the record's `environment`; what the system does not report is None.

    `cuda`, `cudnn` and `driver` are None on a CPU, which uses none of them. `cores` are the logical CPUs that this
    process may use, `threads` those that torch uses, `openmp` the environment variables for these. `commit`, `dirty`
    and `commit_source` are the project's `Commit`. Times of records with equal `fingerprint` may be compared.

    Args:
        device: where the run is.
        count: number of such devices that a clip is shared out over; `device` is then "2 x NVIDIA H100".
    """
    committed = commit()
    described = {
        "device": device_name(device) if count == 1 else f"{count} x {device_name(device)}",
        "device_type": device.type,
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        **_cuda(device),
        "cpu": device_name(torch.device("cpu")),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "openmp": openmp_settings(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": committed.name,
        "dirty": committed.dirty,
        "commit_source": committed.source,
        "packages": {package: _version(package) for package in PACKAGES},
    }
    return {**described, "fingerprint": fingerprint(described)}


def fingerprint(described: Mapping[str, Any]) -> str:
    """Hash what makes times comparable to 16 hex digits: device, threads, torch, CUDA, cuDNN and driver."""
    keys = ("device", "device_type", "threads", "torch", "cuda", "cudnn", "driver")
    return hashlib.sha256(repr([described[key] for key in keys]).encode()).hexdigest()[:16]


def _cuda(device: torch.device) -> dict[str, str | int | None]:
    if device.type != "cuda":
        return {"cuda": None, "cudnn": None, "driver": None}
    try:
        driver = Gpu(device).driver()
    except NoNvmlError:
        driver = None
    return {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver}


def _cores() -> int | None:
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(allowed(0)) if allowed else os.cpu_count()


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
