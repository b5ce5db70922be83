"""Measurements as sections of the record."""

import numpy as np
import pytest

from experiments.measure.first_run import Memory
from experiments.measure.profile_passes import Profile
from experiments.measure.protocol import Timings
from experiments.measure.timing import TimedRun
from experiments.record.sections import describe_cost, describe_memory
from experiments.record.summary import gap_note
from propainter import STAGES


def test_the_record_has_it_all(first, timings):
    flops = {stage: {"float32": 10**9} for stage in STAGES}
    profile = Profile(flops, ceilings={"flops_per_s": {"float32": 1e11}, "copy_bytes_per_s": 1e10})
    cost = describe_cost(first, 2, timings, profile, limit_bytes=123)
    latency = cost["latency"]
    assert latency["median_s"] == np.median(timings.samples_s)
    assert latency["ci95_s"][0] < latency["median_s"] < latency["ci95_s"][1]
    assert (latency["stopped_by"], latency["compile_s"], len(latency["warmup_s"])) == ("fixed", None, 1)
    assert cost["memory"]["limit_bytes"] == 123
    for stage in STAGES:
        row = cost["stages"][stage]
        assert row["fraction_of_peak"] == pytest.approx(0.01 / row["median_s"])
        assert row["saturated_fraction"] is not None
    assert cost["speedup"] is None
    assert (cost["machine"]["before"], cost["machine"]["flops_reason"]) == (timings.machine["before"], None)


def test_what_graphs_keep_is_added_to_the_first_runs_memory():
    memory = Memory("vram", {"flow": 5, "generation": 7}, {"flow": 8, "generation": 9}, 3, 20)
    plain, kept = describe_memory(memory, None), describe_memory(memory, None, pool_bytes=100)
    assert [plain[name] for name in ("peak_bytes", "reserved_bytes", "process_bytes", "graph_pool_bytes")] == [
        7,
        9,
        20,
        0,
    ]
    assert [kept[name] for name in ("peak_bytes", "reserved_bytes", "process_bytes", "graph_pool_bytes")] == [
        *(107, 109, 120, 100)
    ]


def test_stages_that_miss_the_whole_are_noted(first):
    gap = TimedRun(np.empty(0), 2.0, {"flow": 1.0}, 0.0)
    cost = describe_cost(first, 2, Timings(runs=[gap]))
    assert cost["latency"]["stage_gap"] == 0.5
    assert any("miss the whole by 50.0%" in line for line in gap_note(cost["latency"]["stage_gap"]))
    assert cost["disturbed"] == [], "slow work outside the stages is the run's own, and the gate has to see it"
