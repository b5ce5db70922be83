"""A machine with GPUs, by NVML."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from experiments.system import machine_state


class FakeNvml(ModuleType):
    """A machine with two GPUs, of which torch sees the second."""

    class NVMLError(Exception):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=3_000)]
        self.reasons = 0x1
        self.energy_mj = 5_000
        self.missing = set()

    def nvmlInit(self):
        pass

    def nvmlSystemGetDriverVersion(self):
        return b"580.65.06"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return self._known({"GPU-first": 0, "GPU-second": 1}, uuid)

    def nvmlDeviceGetHandleByPciBusId(self, address):
        return self._known({"00000000:05:00.0": 0, "00000000:1b:00.0": 1}, address)

    def _known(self, handles, name):
        if name not in handles:
            raise self.NVMLError("Not Found")
        return handles[name]

    def _give(self, handle, name, figure):
        assert handle == 1
        if name in self.missing:
            raise self.NVMLError("Not Supported")
        return figure

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return self._give(handle, "processes", self.processes)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._give(handle, "clock", {1: 1755, 2: 2619}[kind])

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return self._give(handle, "clock", {1: 1980, 2: 2619}[kind])

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._give(handle, "temperature", 45)

    def nvmlDeviceGetTemperatureThreshold(self, handle, kind):
        return self._give(handle, "temperature", 90)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # the older of two names
        return self._give(handle, "reasons", self.reasons)

    def nvmlDeviceGetViolationStatus(self, handle, policy):
        return self._give(handle, "violation", SimpleNamespace(violationTime=2_500_000_000))

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._give(handle, "power", 71_500)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._give(handle, "utilization", SimpleNamespace(gpu=25, memory=3))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._give(handle, "energy", self.energy_mj)


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    properties = SimpleNamespace(name="a GPU", uuid="second")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(machine_state, "SAMPLE_S", 0.001)
    fake.properties = properties
    return fake
