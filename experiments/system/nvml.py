"""A GPU's clocks, temperature, power and processes by NVIDIA's management library (NVML)."""

import os
from collections.abc import Iterator
from typing import Any

import torch

_SM_CLOCK, _MEMORY_CLOCK = 1, 2
_GPU_SENSOR, _SLOWDOWN_THRESHOLD = 0, 1
_POWER_POLICY, _THERMAL_POLICY = 0, 1

_REASONS = {
    0x001: "gpu_idle",
    0x002: "application_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}

FIGURES = (
    *("other_gpu_processes", "other_gpu_bytes", "sm_clock_mhz", "max_sm_clock_mhz", "memory_clock_mhz"),
    *("temperature_c", "temperature_limit_c", "throttle_reasons", "power_throttled_s", "thermal_throttled_s"),
    *("power_w", "gpu_utilization"),
)
"""The keys of `Gpu.state`."""


class NoNvmlError(RuntimeError):
    """NVML does not know this device; the message is one sentence of why."""


class Gpu:
    """One GPU as NVML sees it. A figure that this board or driver does not have is None.

    The GPU is found by its UUID or PCI address: NVML numbers all GPUs of the machine, torch those in
    CUDA_VISIBLE_DEVICES.

    Raises:
        NoNvmlError: no NVIDIA GPU, no package nvidia-ml-py, or no NVML on this machine.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise NoNvmlError(f"the device is {device.type}, which NVML does not know")
        self.device = device
        try:
            import pynvml
        except ImportError:
            raise NoNvmlError("the package nvidia-ml-py is not installed") from None
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NoNvmlError(f"NVML does not start: {error}") from None
        self._handle = self._find()

    def state(self) -> dict[str, Any]:
        """Return the figures of `FIGURES`, in MHz, degrees Celsius and watts.

        `gpu_utilization` is 0 to 1 over NVML's last sampling period, `*_throttled_s` are counters of seconds,
        `throttle_reasons` names.
        """
        others = self._others()
        limit = self._ask("nvmlDeviceGetTemperatureThreshold", _SLOWDOWN_THRESHOLD)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        utilization = self._ask("nvmlDeviceGetUtilizationRates")
        return {
            "other_gpu_processes": None if others is None else len(others),
            "other_gpu_bytes": None if others is None else sum(used or 0 for used in others),
            "sm_clock_mhz": self._ask("nvmlDeviceGetClockInfo", _SM_CLOCK),
            "max_sm_clock_mhz": self._ask("nvmlDeviceGetMaxClockInfo", _SM_CLOCK),
            "memory_clock_mhz": self._ask("nvmlDeviceGetClockInfo", _MEMORY_CLOCK),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", _GPU_SENSOR),
            "temperature_limit_c": limit,
            "throttle_reasons": self._throttle_reasons(),
            "power_throttled_s": self._throttled_s(_POWER_POLICY),
            "thermal_throttled_s": self._throttled_s(_THERMAL_POLICY),
            "power_w": None if milliwatts is None else milliwatts / 1000,
            "gpu_utilization": None if utilization is None else utilization.gpu / 100,
        }

    def process_bytes(self) -> int | None:
        """Return the GPU memory of this process in bytes, with that of the CUDA context."""
        own, _ = self._own_and_others()
        return own

    def energy_joules(self) -> float | None:
        """Return the board's energy counter: of all processes, since the driver was loaded."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def driver(self) -> str | None:
        """Return the driver's version."""
        try:
            version = self._nvml.nvmlSystemGetDriverVersion()
        except self._nvml.NVMLError:
            return None
        return version.decode() if isinstance(version, bytes) else version

    def _find(self) -> Any:
        properties = torch.cuda.get_device_properties(self.device)
        for lookup, name in _names(properties):
            try:
                return getattr(self._nvml, lookup)(name)
            except self._nvml.NVMLError:
                continue
        raise NoNvmlError(f"NVML finds no GPU with the UUID or PCI address of {self.device}, {properties.name}")

    def _ask(self, name: str, *arguments: Any) -> Any:
        function = getattr(self._nvml, name, None)  # older bindings lack some
        if function is None:
            return None
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def _throttle_reasons(self) -> list[str] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # the name before driver 535
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else [name for bit, name in _REASONS.items() if bits & bit]

    def _throttled_s(self, policy: int) -> float | None:
        status = self._ask("nvmlDeviceGetViolationStatus", policy)
        return None if status is None else status.violationTime / 1e9

    def _others(self) -> list[int | None] | None:
        return self._own_and_others()[1]

    def _own_and_others(self) -> tuple[int | None, list[int | None] | None]:
        """Return the bytes of this process and of each other one that computes; None where NVML does not list them.

        In a container NVML can list the host's process ids, and none is ours. The process whose memory is nearest above
        what torch has reserved then counts as ours.
        """
        listed = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if listed is None:
            return None, None
        mine = [process.usedGpuMemory for process in listed if process.pid == os.getpid()]
        others = [process.usedGpuMemory for process in listed if process.pid != os.getpid()]
        if not mine and others and torch.cuda.is_initialized():
            held = torch.cuda.memory_reserved(self.device)
            ours = min(others, key=lambda used: abs(used - held) if (used or 0) >= held else float("inf"))
            others.remove(ours)
            mine = [ours]
        return (mine[0] if mine else None), others


def _names(properties: Any) -> Iterator[tuple[str, str]]:
    """Yield NVML's look-up functions, each with its argument, the most reliable first."""
    if uuid := getattr(properties, "uuid", None):
        bare = str(uuid).removeprefix("GPU-")
        yield "nvmlDeviceGetHandleByUUID", f"GPU-{bare}"
        yield "nvmlDeviceGetHandleByUUID", f"MIG-{bare}"
    if hasattr(properties, "pci_bus_id"):
        address = properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id
        yield "nvmlDeviceGetHandleByPciBusId", "{:08x}:{:02x}:{:02x}.0".format(*address)
