"""The state of the machine, what in it disturbs timing, and energy."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from experiments.system import machine_state as machine
from experiments.system.machine_state import Energy, disturbances, process_vram_bytes, snapshot
from experiments.system.nvml import FIGURES

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

QUIET = {
    **{"monotonic_s": 0.0, "cpu_busy_s": 0.0, "cpu_own_s": 0.0, "cpu_stolen_s": 0.0, "cpu_count": 8},
    **{"load_per_core": 0.0, "other_cpu_cores": 0.0, "quota_throttled_s": 0.0, "cpu_throttle_count": 0},
    **{"cpu_temperature_c": 50.0, "cpu_temperature_limit_c": 95.0, "swap_used_bytes": 0},
    **{"other_gpu_processes": 0, "other_gpu_bytes": 0, "sm_clock_mhz": 345, "max_sm_clock_mhz": 1980},
    **{"temperature_c": 35, "temperature_limit_c": 90, "throttle_reasons": ["gpu_idle"]},
    **{"power_throttled_s": 0.0, "thermal_throttled_s": 0.0},
}
"""Before a run."""

BUSY = {
    **QUIET,
    **{"monotonic_s": 10.0, "cpu_busy_s": 80.5, "cpu_own_s": 80.0, "load_per_core": 1.4},
    **{"sm_clock_mhz": 1950, "temperature_c": 60, "throttle_reasons": ["application_clocks"]},
}
"""After 10 s on all 8 cores and the GPU, with no other process."""


class TestSnapshot:
    def test_on_a_cpu_is_strict_json_and_short(self):
        start = time.perf_counter()
        state = snapshot(CPU)
        assert time.perf_counter() - start < 2
        assert json.loads(json.dumps(state, allow_nan=False)) == state
        assert state["available_host_bytes"] > 0 and state["cpu_count"] == os.cpu_count()
        assert all(state[key] is None for key in FIGURES) and "cpu" in state["nvml"]

    def test_since_an_earlier_one_it_waits_for_nothing(self, monkeypatch):
        waited = []
        monkeypatch.setattr(machine.time, "sleep", waited.append)
        start = machine.cpu_counters()
        state = snapshot(CPU, since={**start, "monotonic_s": start["monotonic_s"] - 10, "cpu_busy_s": 0.0})
        assert waited == [0]
        assert state["other_cpu_cores"] > 1
        snapshot(CPU, since=machine.cpu_counters())
        assert 0 < waited[1] <= machine.SAMPLE_S

    def test_of_a_gpu(self, nvml):
        nvml.reasons = 0x4 | 0x20
        state = snapshot(CUDA)
        assert json.loads(json.dumps(state, allow_nan=False)) == state
        expected = {
            **{"sm_clock_mhz": 1755, "max_sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "temperature_c": 45},
            **{"power_w": 71.5, "gpu_utilization": 0.25, "other_gpu_processes": 0, "power_throttled_s": 2.5},
            **{"throttle_reasons": ["sw_power_cap", "sw_thermal_slowdown"], "nvml": None},
        }
        assert {key: state[key] for key in expected} == expected

    def test_no_process_memory_on_a_cpu(self):
        assert process_vram_bytes(CPU) is None


class TestDisturbances:
    def test_a_quiet_machine(self):
        assert disturbances(QUIET, BUSY) == []

    def test_nothing_known(self):
        unknown = dict.fromkeys(QUIET)
        assert disturbances(unknown, unknown) == disturbances({}, {}) == []

    @pytest.mark.parametrize(
        ("changed", "sentence"),
        [
            ({"cpu_busy_s": 95.0}, "other processes kept 1.5 of 8 cores busy"),
            ({"cpu_stolen_s": 3.0}, "the hypervisor gave 0.30 of 8 cores"),
            ({"quota_throttled_s": 1.5}, "CPU quota held the process back for 1.50 of 10.0 s"),
            ({"power_throttled_s": 4.0}, "power limit held its clocks back for 4.00 of 10.0 s"),
            ({"thermal_throttled_s": 4.0}, "heat held the GPU's clocks back for 4.00 of 10.0 s"),
            ({"cpu_throttle_count": 3}, "the CPU slowed down for heat 3 times"),
            ({"swap_used_bytes": 2**30}, "the system swapped: 1024 MiB more"),
            ({"cpu_temperature_c": 93.0}, "the CPU was at 93 C after the run"),
            ({"temperature_c": 86}, "the GPU was at 86 C after the run"),
            ({"throttle_reasons": ["sw_thermal_slowdown"]}, "clocks back after the run: sw_thermal_slowdown"),
            ({"other_gpu_processes": 2, "other_gpu_bytes": 2**30}, "2 other process(es) computed on the GPU after"),
            ({"sm_clock_mhz": 900, "temperature_c": 80}, "the GPU's clock was 900 of 1980 MHz at 80 C"),
        ],
    )
    def test_each_is_one_sentence(self, changed, sentence):
        found = disturbances(QUIET, {**BUSY, **changed})
        assert len(found) == 1 and sentence in found[0]

    @pytest.mark.parametrize(
        ("changed", "sentence"),
        [
            ({"other_gpu_processes": 1, "other_gpu_bytes": 0}, "on the GPU before the run"),
            ({"throttle_reasons": ["hw_slowdown", "gpu_idle"]}, "clocks back before the run: hw_slowdown"),
            ({"cpu_temperature_c": 95.0}, "the CPU was at 95 C before the run"),
        ],
    )
    def test_before_the_run(self, changed, sentence):
        found = disturbances({**QUIET, **changed}, BUSY)
        assert len(found) == 1 and sentence in found[0]

    @pytest.mark.parametrize(
        "changed",
        [
            {"cpu_busy_s": 83.5},  # 0.35 of 8 cores
            {"sm_clock_mhz": 900},  # low clocks on a cool GPU: a setting
            {"sm_clock_mhz": 345, "temperature_c": 80, "throttle_reasons": ["gpu_idle"]},  # it has just ended
            {"power_throttled_s": 0.05},
            {"swap_used_bytes": 2**20},
            {"load_per_core": 3.0},  # our own threads
        ],
    )
    def test_what_does_not_matter(self, changed):
        assert disturbances(QUIET, {**BUSY, **changed}) == []

    def test_by_the_looks_where_there_are_no_counters(self):
        without = {key: value for key, value in BUSY.items() if not key.startswith("cpu_own")}
        assert disturbances(QUIET, {**without, "other_cpu_cores": 2.0}) == [
            "other processes kept 2.0 of 8 cores busy, more than 0.4"
        ]

    def test_own_work_does_not_count_and_that_of_others_does(self):
        start = machine.cpu_counters()
        spin(0.2)
        alone = machine.cpu_counters()
        if alone["cpu_busy_s"] == start["cpu_busy_s"]:
            pytest.skip("needs a system that counts CPU time")
        assert alone["cpu_own_s"] - start["cpu_own_s"] == pytest.approx(0.2, abs=0.1)
        subprocess.run([sys.executable, "-c", SPIN], check=True)
        end = machine.cpu_counters()
        assert end["cpu_own_s"] - alone["cpu_own_s"] > 0.25, "a child that ended is own work"
        elapsed = end["monotonic_s"] - start["monotonic_s"]
        assert machine.other_cores(start, {**end, "cpu_busy_s": end["cpu_busy_s"] + elapsed}) > 0.5

    @pytest.mark.parametrize(
        ("busy", "own", "cores"),
        [(0.0, 0.0, 0.0), (0.0, 0.02, 0.0), (3.0, 1.0, 1.0), (1.0, 1.2, 0.0), (0.0, 1.5, None), (-1.0, 0.0, None)],
    )
    def test_other_cores_by_the_counters(self, busy, own, cores):
        start = {"monotonic_s": 10.0, "cpu_busy_s": 50.0, "cpu_own_s": 5.0}
        end = {"monotonic_s": 12.0, "cpu_busy_s": 50.0 + busy, "cpu_own_s": 5.0 + own}
        assert machine.other_cores(start, end) == (cores and pytest.approx(cores))
        assert machine.other_cores(start, {**end, "cpu_own_s": None}) is None


SPIN = "import time\nwhile time.process_time() < 0.3: pass"


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class TestEnergy:
    def test_of_a_gpu(self, nvml):
        energy = Energy(CUDA)
        assert energy.joules() == 5.0
        nvml.energy_mj += 1_500
        assert energy.joules() == 6.5

    @pytest.fixture
    def rapl(self, tmp_path, monkeypatch):
        monkeypatch.setattr(machine, "_SYSFS", tmp_path)
        for name, start in (("intel-rapl:0", 1_000_000), ("intel-rapl:1", 2_000_000), ("intel-rapl:0:0", 9_000_000)):
            zone = tmp_path / "class/powercap" / name
            zone.mkdir(parents=True)
            (zone / "energy_uj").write_text(f"{start}\n")
            (zone / "max_energy_range_uj").write_text("4000000\n")
        return tmp_path / "class/powercap"

    def test_of_cpu_packages_through_a_full_counter(self, rapl):
        energy = Energy(CPU)
        assert energy.joules() == 3.0
        (rapl / "intel-rapl:0/energy_uj").write_text("500000")
        assert energy.joules() == 6.5

    def test_none_where_it_can_not_be_read(self, rapl, tmp_path):
        (rapl / "intel-rapl:1/energy_uj").unlink()
        assert Energy(CPU).joules() is None

    def test_none_without_rapl(self, tmp_path, monkeypatch):
        monkeypatch.setattr(machine, "_SYSFS", tmp_path)
        assert Energy(CPU).joules() is None
