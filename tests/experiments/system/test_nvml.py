"""NVML's figures: of the right GPU and process, and None or a sentence where there are none."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from experiments.system.machine_state import Energy, process_vram_bytes, snapshot
from experiments.system.nvml import FIGURES

CUDA = torch.device("cuda", 0)


def test_figures_that_a_board_lacks_are_none(nvml):
    nvml.missing = {"processes", "clock", "temperature", "reasons", "violation", "power", "utilization", "energy"}
    state = snapshot(CUDA)
    assert all(state[key] is None for key in FIGURES) and state["nvml"] is None
    assert Energy(CUDA).joules() is None and process_vram_bytes(CUDA) is None


def test_found_on_the_bus_where_there_is_no_uuid(nvml, monkeypatch):
    properties = SimpleNamespace(name="a GPU", pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert snapshot(CUDA)["sm_clock_mhz"] == 1755


@pytest.mark.parametrize("how", ["not installed", "does not start", "finds no GPU"])
def test_says_why_there_is_no_nvml(nvml, monkeypatch, how):
    def fail():
        raise nvml.NVMLError("Driver Not Loaded")

    if how == "not installed":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    elif how == "does not start":
        nvml.nvmlInit = fail
    else:
        nvml.properties.uuid = "third"
    state = snapshot(CUDA)
    assert how in state["nvml"] and state["sm_clock_mhz"] is None
    assert process_vram_bytes(CUDA) is None and Energy(CUDA).joules() is None


class TestProcesses:
    def other(self, used):
        return SimpleNamespace(pid=os.getpid() + 1, usedGpuMemory=used)

    def test_own_memory_and_others(self, nvml):
        nvml.processes.append(self.other(7_000))
        state = snapshot(CUDA)
        assert process_vram_bytes(CUDA) == 3_000
        assert (state["other_gpu_processes"], state["other_gpu_bytes"]) == (1, 7_000)

    def test_under_foreign_numbers_one_is_ours_once_cuda_is_in_use(self, nvml, monkeypatch):
        nvml.processes = [self.other(900), self.other(5_200), self.other(60_000)]
        assert snapshot(CUDA)["other_gpu_processes"] == 3 and process_vram_bytes(CUDA) is None
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5_000)
        assert snapshot(CUDA)["other_gpu_processes"] == 2 and process_vram_bytes(CUDA) == 5_200
