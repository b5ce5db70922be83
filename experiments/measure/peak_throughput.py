"""The device's peak throughput: a short calibration, kept for each device, torch version and number of threads."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F

from experiments.system.environment import device_name
from experiments.system.machine_state import disturbances, snapshot
from propainter.allocator import release_memory
from propainter.errors import is_out_of_memory
from propainter.io.disk_cache import DiskLRUCache
from variants.precision import tf32_flags

log = logging.getLogger(__name__)

Work = tuple[Callable[[int, torch.dtype, torch.device], Callable[[], Any]], Callable[[int], int]]
"""A timed operation: (size, dtype, device) -> a call, and size -> its operations."""

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

HOPELESS = 0.1
"""Half precision on a CPU that reaches less than this share of float32's speed is not calibrated."""

MAX_TRIES = 3
"""A calibration that others disturbed is tried again at the next calls, so many times in all; the highest counts."""

KEEP_BYTES = 2**20
"""Bound of the folder of calibrations."""

_CHANNELS = 128
_SIZES = {"cpu": (256, 1024, 2048), "cuda": (2048, 4096, 8192)}
_LONGEST_S = 0.1
_BUDGET_S = 0.1


def ceilings(device: torch.device, folder: Path) -> dict[str, Any]:
    """Return the device's ceilings, measured at the first call (about 3 s on a CPU, 1 s on a GPU) and kept in `folder`.

    Returns:
        `flops_per_s`: dtype -> operations a second of a large matrix product, best of several; `conv_flops_per_s`:
        the same of a 3x3 convolution; `copy_bytes_per_s`: bytes read and written a second by a copy within the
        device's memory. Keys of the first two are float32, bfloat16, float16 and, on CUDA, tf32; None where the
        device has no such dtype, or is hopelessly slow in it (`HOPELESS`).

    Raises:
        torch.OutOfMemoryError: there is no room for a matrix product of 2048x2048 (256x256 on a CPU).
    """
    described = {"device": device_name(device), "torch": torch.__version__, "threads": torch.get_num_threads()}
    key = hashlib.sha256(repr(described).encode()).hexdigest()[:16]
    kept = DiskLRUCache(folder, KEEP_BYTES, ".ceilings.json")
    file = kept.read(key, _load, damage=(ValueError,))
    if file is not None and (file["quiet"] or file["tries"] >= MAX_TRIES):
        return file["ceilings"]
    log.info("measuring what %s can do at most, once for this torch and number of threads", described["device"])
    before = snapshot(device)
    found = _measured(device)
    quiet = not disturbances(before, snapshot(device))
    if file is not None:
        found = _higher(file["ceilings"], found)
    tries = 1 + (file["tries"] if file else 0)
    text = json.dumps({**described, "quiet": quiet, "tries": tries, "ceilings": found}, indent=2, allow_nan=False)
    try:
        kept.write(key, lambda path: path.write_text(text + "\n"))
    except OSError as error:
        log.warning("the ceilings could not be kept in %s (%s); the next run measures them again", folder, error)
    return found


def _higher(one: Any, other: Any) -> Any:
    """Return the higher of two calibrations, figure by figure."""
    if isinstance(one, dict):
        return {key: _higher(one.get(key), value) for key, value in other.items()}
    return max((speed for speed in (one, other) if speed is not None), default=None)


def _load(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or not isinstance(content.get("tries"), int) or "quiet" not in content:
        raise ValueError("it is no calibration")
    found = content.get("ceilings")
    if not isinstance(found, dict) or not _is_speed(found.get("copy_bytes_per_s")):
        raise ValueError("it has no ceilings")
    for kind in ("flops_per_s", "conv_flops_per_s"):
        speeds = found.get(kind)
        if not isinstance(speeds, dict) or not _is_speed(speeds.get("float32")):
            raise ValueError(f"it has no {kind}")
        if not all(dtype in DTYPES and (speed is None or _is_speed(speed)) for dtype, speed in speeds.items()):
            raise ValueError(f"its {kind} are no speeds")
    return content


def _is_speed(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < float("inf")


@torch.inference_mode()
def _measured(device: torch.device) -> dict[str, Any]:
    flops: dict[str, float | None] = {}
    conv: dict[str, float | None] = {}
    try:
        for name, dtype in DTYPES.items():
            if name == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
                continue
            with tf32_flags(name == "tf32"):
                flops[name], conv[name] = _speeds(dtype, device, flops.get("float32"))
        copied = _copy_bytes_per_s(device)
    finally:
        release_memory()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {"flops_per_s": flops, "conv_flops_per_s": conv, "copy_bytes_per_s": copied}


def _speeds(dtype: torch.dtype, device: torch.device, float32: float | None) -> tuple[float | None, float | None]:
    """Return the speed of a product and of a convolution; None if the device lacks the dtype or is `HOPELESS` in it.

    Args:
        float32: speed of the product in float32, where that is known already.
    """
    try:
        product = _speed(_PRODUCT, dtype, device)
        if dtype == torch.float16 and device.type == "cpu" and product < HOPELESS * (float32 or 0):
            return None, None
        return product, _speed(_CONVOLUTION, dtype, device)
    except RuntimeError as error:
        if dtype == torch.float32 or is_out_of_memory(error):
            raise
        log.debug("%s has no %s: %s", device, dtype, error)
        return None, None


def _speed(work: Work, dtype: torch.dtype, device: torch.device) -> float:
    """Return operations a second at the best of the sizes, without those that take too long or do not fit.

    Raises:
        torch.OutOfMemoryError: not even the smallest size fits into memory.
    """
    make, operations = work
    best = 0.0
    for size in _SIZES[device.type]:
        if best and operations(size) / best > _LONGEST_S:
            break
        try:
            best = max(best, operations(size) / _best_s(make(size, dtype, device), device))
        except Exception as error:
            if not best or not is_out_of_memory(error):
                raise
            break
    return best


def _product(size: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Any]:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return partial(torch.mm, a, b, out=torch.empty_like(a))


def _convolution(size: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Any]:
    """Return a 3x3 convolution over 128 channels of size / 8 pixels a side."""
    x = torch.randn(1, _CHANNELS, size // 8, size // 8, device=device).to(dtype)
    weight = torch.randn(_CHANNELS, _CHANNELS, 3, 3, device=device).to(dtype)
    return partial(F.conv2d, x, weight, padding=1)


_PRODUCT: Work = (_product, lambda size: 2 * size**3)
_CONVOLUTION: Work = (_convolution, lambda size: 2 * 9 * _CHANNELS**2 * (size // 8) ** 2)


def _copy_bytes_per_s(device: torch.device) -> float:
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    count = max(2**20, min(2**28, free // 8))  # well over what caches hold
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / _best_s(partial(target.copy_, source), device)


def _best_s(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of the shortest of at least 3 calls, after one that warms up."""
    run()
    best, calls, start = float("inf"), 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - start < _BUDGET_S:
        best = min(best, _seconds(run, device))
        calls += 1
    return best


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1000
