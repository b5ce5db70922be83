"""The state of the machine before and after timing, and which disturbances make times unreliable."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from experiments.system.nvml import FIGURES, Gpu, NoNvmlError

SAMPLE_S = 0.15
"""How long `snapshot` watches other processes, at least."""

CPU_TICKS_S = 0.05
"""A few ticks of the system's CPU counters, which grow by 0.01 s each."""

OTHER_LOAD = 0.05
LEAST_OTHER_CORES = 0.2
"""Other processes can use this share of all cores, or this many cores where that is more, without disturbing."""

STOLEN_SHARE = 0.02
"""A hypervisor can give this share of all cores to other machines without disturbing."""

THROTTLED_SHARE = 0.01
"""Clocks or a CPU quota can be held back for this share of the time without disturbing."""

SWAP_GROWTH_BYTES = 16 * 2**20
"""Swap in use can grow by this between two snapshots without disturbing."""

NEAR_LIMIT_C = 5
"""A temperature this close below its limit counts as near."""

HOT_C = 15
"""A device this close below its limit is hot: heat is then the cause of low clocks."""

LOW_CLOCK = 0.85
"""Clocks below this share of the highest are low."""

HARMLESS_REASONS = frozenset({"gpu_idle", "application_clocks", "display_clocks"})
"""Reasons for low clocks that are a setting or an idle GPU."""

_SYSFS = Path("/sys")


def snapshot(device: torch.device, since: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the machine's state as JSON values; what the system does not report is None.

    Host: `load_per_core` (1-minute load, with own threads), `other_cpu_cores` (cores that other processes kept busy
    since `since`), `cpu_count`, `cpu_clock_mhz`, `max_cpu_clock_mhz`, `cpu_temperature_c`, `cpu_temperature_limit_c`,
    `available_host_bytes`, `swap_used_bytes`. Counters, whose growth between two snapshots counts: `monotonic_s`,
    `cpu_busy_s`, `cpu_own_s` (this process and its children), `cpu_stolen_s` (by a hypervisor), `quota_throttled_s` (by
    a container's CPU quota), `cpu_throttle_count` (for heat). GPU: the keys of `experiments.system.nvml.FIGURES`;
    `nvml` is one sentence of why they are None, else None.

    Args:
        since: an earlier snapshot or `cpu_counters()`; without one this call takes `SAMPLE_S`.
    """
    start: dict[str, Any] = cpu_counters() if since is None else since
    time.sleep(max(0.0, SAMPLE_S - (time.monotonic() - start["monotonic_s"])))
    now = cpu_counters()
    memory, swap = psutil.virtual_memory(), _swap_used_bytes()
    temperature, limit = _cpu_temperature()
    clock, highest = _cpu_clock()
    count = psutil.cpu_count() or 1
    return {
        "load_per_core": _or_none(lambda: psutil.getloadavg()[0] / count),
        "other_cpu_cores": other_cores(start, now),
        "cpu_count": count,
        "cpu_clock_mhz": clock,
        "max_cpu_clock_mhz": highest,
        "cpu_temperature_c": temperature,
        "cpu_temperature_limit_c": limit,
        "available_host_bytes": memory.available,
        "swap_used_bytes": swap,
        **now,
        "quota_throttled_s": _quota_throttled_s(),
        "cpu_throttle_count": _cpu_throttle_count(),
        **_gpu_state(device),
    }


def disturbances(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return one sentence per disturbance between two snapshots; empty on a quiet machine.

    The load of this process never counts. Figures that are missing or None are skipped.
    """
    found = [*_cpu_disturbances(before, after), *_counter_disturbances(before, after)]
    for when, state in (("before", before), ("after", after)):
        found += _gpu_disturbances(when, state)
        for what, prefix in (("CPU", "cpu_"), ("GPU", "")):
            found += _heat(what, when, state.get(f"{prefix}temperature_c"), state.get(f"{prefix}temperature_limit_c"))
    return found


def process_vram_bytes(device: torch.device) -> int | None:
    """Return the GPU memory of this process by NVML, with that outside torch; None on a CPU and without NVML."""
    try:
        return Gpu(device).process_bytes()
    except NoNvmlError:
        return None


class Energy:
    """An energy counter: the GPU board's by NVML, or the CPU packages' by RAPL where Linux lets it be read.

    Both count the whole device, with other processes. Take the difference of two readings.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu: Gpu | None = None
        self._packages: list[_RaplPackage] = []
        if device.type == "cpu":
            zones = sorted(_SYSFS.glob("class/powercap/intel-rapl:[0-9]*"))
            packages = [_RaplPackage(zone) for zone in zones if zone.name.count(":") == 1]
            readable = all(package.joules() is not None for package in packages)
            self._packages = packages if readable else []
            return
        try:
            self._gpu = Gpu(device)
        except NoNvmlError:
            return

    def joules(self) -> float | None:
        """Return the counter in joules; None without one."""
        if self._gpu is not None:
            return self._gpu.energy_joules()
        readings = [package.joules() for package in self._packages]
        known = [reading for reading in readings if reading is not None]
        return sum(known) if known and len(known) == len(readings) else None


class _RaplPackage:
    """One CPU package's energy counter, which wraps around to 0."""

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self._range = _number(zone / "max_energy_range_uj") or 0
        self._last: float | None = None
        self._wrapped = 0.0

    def joules(self) -> float | None:
        reading = _number(self._zone / "energy_uj")
        if reading is None:
            return None
        if self._last is not None and reading < self._last:
            self._wrapped += self._range
        self._last = reading
        return (self._wrapped + reading) / 1e6


def other_cores(start: dict[str, Any], end: dict[str, Any]) -> float | None:
    """Return how many cores other processes kept busy between two readings; None where a counter is missing."""
    needed = ("monotonic_s", "cpu_busy_s", "cpu_own_s")
    if any(reading.get(key) is None for reading in (start, end) for key in needed):
        return None
    elapsed, busy, own = (end[key] - start[key] for key in needed)
    # Without CPU accounting the busy counter stands still although this process worked.
    if elapsed <= 0 or busy < 0 or (busy == 0 and own > CPU_TICKS_S):
        return None
    return max(0.0, (busy - own) / elapsed)


def cpu_counters() -> dict[str, float | None]:
    """Return a snapshot's counters of the CPU's use, in seconds; None for a missing one."""
    times = psutil.cpu_times()._asdict()
    # Linux counts a guest's time in user time too.
    resting = ("idle", "iowait", "steal", "guest", "guest_nice")
    return {
        "monotonic_s": time.monotonic(),
        "cpu_busy_s": sum(seconds for kind, seconds in times.items() if kind not in resting),
        "cpu_own_s": _own_cpu_s(),
        "cpu_stolen_s": times.get("steal"),
    }


def _own_cpu_s() -> float:
    """Return the CPU seconds of this process and its children, ended ones included."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            spent = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        children = getattr(spent, "children_user", 0.0) + getattr(spent, "children_system", 0.0)
        total += spent.user + spent.system + children
    return total


def _cpu_disturbances(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    cores = after.get("cpu_count") or before.get("cpu_count") or 1
    others = other_cores(before, after)
    if others is None:
        sampled = [state["other_cpu_cores"] for state in (before, after) if state.get("other_cpu_cores") is not None]
        others = max(sampled, default=0.0)
    allowed = max(LEAST_OTHER_CORES, OTHER_LOAD * cores)
    if others > allowed:
        return [f"other processes kept {others:.1f} of {cores} cores busy, more than {allowed:.1f}"]
    return []


def _counter_disturbances(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the disturbances that show in the growth of counters."""

    def growth(key: str) -> float:
        start, end = before.get(key), after.get(key)
        return 0 if start is None or end is None else end - start

    found = []
    elapsed = growth("monotonic_s")
    cores = after.get("cpu_count") or 1
    if elapsed > 0:
        stolen = growth("cpu_stolen_s") / elapsed
        if stolen > STOLEN_SHARE * cores:
            found.append(f"the hypervisor gave {stolen:.2f} of {cores} cores to other machines")
        for key, whom in (
            ("quota_throttled_s", "the container's CPU quota held the process back"),
            ("power_throttled_s", "the GPU's power limit held its clocks back"),
            ("thermal_throttled_s", "heat held the GPU's clocks back"),
        ):
            if growth(key) > THROTTLED_SHARE * elapsed:
                found.append(f"{whom} for {growth(key):.2f} of {elapsed:.1f} s")
    if growth("cpu_throttle_count") > 0:
        found.append(f"the CPU slowed down for heat {growth('cpu_throttle_count'):.0f} times")
    if growth("swap_used_bytes") > SWAP_GROWTH_BYTES:
        found.append(f"the system swapped: {growth('swap_used_bytes') / 2**20:.0f} MiB more in swap")
    return found


def _gpu_disturbances(when: str, state: dict[str, Any]) -> list[str]:
    found = []
    if others := state.get("other_gpu_processes"):
        size = (state.get("other_gpu_bytes") or 0) / 2**20
        found.append(f"{others} other process(es) computed on the GPU {when} the run, with {size:.0f} MiB")
    reasons = state.get("throttle_reasons") or []
    if slowed := [reason for reason in reasons if reason not in HARMLESS_REASONS]:
        found.append(f"the GPU held its clocks back {when} the run: {', '.join(slowed)}")
    keys = ("sm_clock_mhz", "max_sm_clock_mhz", "temperature_c", "temperature_limit_c")
    figures: list[Any] = [state.get(key) for key in keys]
    if "gpu_idle" not in reasons and None not in figures:
        clock, highest, degrees, limit = figures
        if clock < LOW_CLOCK * highest and degrees >= limit - HOT_C:
            found.append(f"the GPU's clock was {clock} of {highest} MHz at {degrees} C {when} the run")
    return found


def _heat(what: str, when: str, degrees: float | None, limit: float | None) -> list[str]:
    if degrees is None or limit is None or degrees < limit - NEAR_LIMIT_C:
        return []
    return [f"the {what} was at {degrees:.0f} C {when} the run, near its limit of {limit:.0f} C"]


def _gpu_state(device: torch.device) -> dict[str, Any]:
    try:
        return {**Gpu(device).state(), "nvml": None}
    except NoNvmlError as why:
        return {**dict.fromkeys(FIGURES), "nvml": str(why)}


def _cpu_clock() -> tuple[float | None, float | None]:
    frequency = _or_none(psutil.cpu_freq) if hasattr(psutil, "cpu_freq") else None
    return (None, None) if frequency is None else (frequency.current or None, frequency.max or None)


def _cpu_temperature() -> tuple[float | None, float | None]:
    """Return the temperature of the hottest CPU sensor and its limit, in degrees Celsius."""
    chips = (_or_none(psutil.sensors_temperatures) if hasattr(psutil, "sensors_temperatures") else None) or {}
    sensors = [sensor for chip in ("coretemp", "k10temp", "zenpower", "cpu_thermal") for sensor in chips.get(chip, ())]
    if sensors:
        hottest = max(sensors, key=lambda sensor: sensor.current)
        return hottest.current, hottest.critical or hottest.high
    for zone in sorted(_SYSFS.glob("class/thermal/thermal_zone*")):
        kind = _or_none((zone / "type").read_text) or ""
        if kind.strip() == "x86_pkg_temp" or kind.startswith("cpu"):
            millidegrees = _number(zone / "temp")
            return (None if millidegrees is None else millidegrees / 1000), None
    return None, None


def _cpu_throttle_count() -> int | None:
    counts = [_number(path) for path in _SYSFS.glob("devices/system/cpu/cpu0/thermal_throttle/*_throttle_count")]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def _quota_throttled_s() -> float | None:
    lines = _or_none(lambda: (_SYSFS / "fs/cgroup/cpu.stat").read_text().splitlines()) or []
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("throttled_usec ")), None)


def _swap_used_bytes() -> int | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # psutil warns where the system has no count of swapping
        swap = _or_none(psutil.swap_memory)
    return None if swap is None else swap.used


def _number(path: Path) -> float | None:
    return _or_none(lambda: float(path.read_text()))


def _or_none(read: Callable[[], Any]) -> Any:
    """Return the result of `read`; None where the system does not have or show that figure."""
    try:
        return read()
    except (OSError, ValueError, RuntimeError, NotImplementedError):
        return None
