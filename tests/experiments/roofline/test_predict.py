"""Predictions for a GPU: counts against a real run on the CPU, tables, and errors as sentences."""

import pytest
from support.gpu.fake_cuda import ROUND

from experiments.data import load, sample_clip
from experiments.measure.flops import counting
from experiments.roofline import DeviceError
from experiments.roofline import predict as module
from experiments.roofline.op_costs import Cost, CostCounter
from experiments.roofline.predict import COMBINATIONS, count, main, ratio_table, sdpa_plans, stage_table, whole_s
from propainter import InputError, Pipeline, Schedule
from variants import UnsupportedError
from variants.presets import composed

SMALL = dict(frames=3, height=128, width=128)
ONCE = ["schedule.raft_iterations=1"]


def test_the_whole_is_the_sum_of_the_stages_bounds():
    counter = CostCounter(ROUND)
    counter.costs.update(flow=Cost(launches=10, busy_s=2.0, likely_s=4.0), generation=Cost(launches=30, busy_s=1.0))
    assert whole_s(counter, 0.1, likely=False) == pytest.approx(2.0 + 3.0)
    assert whole_s(counter, 0.1, likely=True) == pytest.approx(4.0 + 3.0)
    assert whole_s(counter, 0.0, likely=True) == pytest.approx(4.0)


@pytest.fixture(scope="module")
def published():
    return count(["preset=published", *ONCE], **SMALL, ceilings=ROUND)


@pytest.fixture(scope="module")
def fast():
    return count(["reuse=exact", "attention=sdpa", "precision=amp_all", *ONCE], **SMALL, ceilings=ROUND)


class TestRun:
    @pytest.mark.slow
    def test_operations_are_those_of_a_real_run(self, published, networks):
        clip = load(sample_clip(num_frames=3, height=128, width=128))
        pipeline = Pipeline(networks, Schedule(raft_iterations=1))
        with counting(pipeline) as flops:
            pipeline(clip.frames, clip.masks)
        assert published.counts == flops

    def test_reuse_in_half_precision_does_less_and_in_half(self, published, fast):
        assert sum(fast.counts["flow"].values()) < sum(published.counts["flow"].values())
        for stage in ("flow", "completion", "generation"):
            assert fast.counts[stage]["float16"] > 10 * fast.counts[stage].get("float32", 0)

    @pytest.mark.slow
    def test_tf32_counts_as_such(self, published):
        allowed = count(["preset=published", "precision=tf32", *ONCE], **SMALL, ceilings=ROUND)
        for stage in ("flow", "completion", "generation"):
            assert allowed.counts[stage]["tf32"] > 10 * allowed.counts[stage].get("float32", 0)
            assert sum(allowed.counts[stage].values()) == sum(published.counts[stage].values())

    @pytest.mark.slow
    def test_graphs_by_hand_are_recorded_without_a_wait_and_launched_at_once(self, fast, caplog):
        overrides = ["reuse=exact", "attention=sdpa", "precision=amp_all", *ONCE, "cuda_graphs=manual"]
        by_hand = count(overrides, **SMALL, ceilings=ROUND)
        assert not caplog.records  # what can't be recorded is a warning
        for stage in ("flow", "completion", "generation"):
            before, after = fast.costs[stage], by_hand.costs[stage]
            assert after.launches < before.launches - 60
            assert before.kernels <= after.kernels <= before.kernels + 40  # inputs in, outputs out
            assert after.waits == before.waits
            assert by_hand.counts[stage] == fast.counts[stage]

    @pytest.mark.slow
    def test_compiled_components_launch_less_and_cuda_graphs_less_yet(self, fast):
        overrides = ["reuse=exact", "attention=sdpa", "precision=amp_all", *ONCE, "compile.components=[decoder]"]
        compiled, recorded = (
            count([f"compile={mode}", *overrides], **SMALL, ceilings=ROUND).costs
            for mode in ("default", "reduce_overhead")
        )
        assert recorded["generation"].launches < compiled["generation"].launches < fast.costs["generation"].launches
        assert compiled["generation"].moved_bytes < fast.costs["generation"].moved_bytes
        # What a graph gives is copied.
        assert recorded["generation"].moved_bytes > compiled["generation"].moved_bytes
        assert compiled["completion"] == recorded["completion"] == fast.costs["completion"]

    def test_the_tables_have_a_line_for_each_stage_and_the_whole_and_ratios_to_the_first_two(self, published, fast):
        counters = {"published": published, "fast": fast}
        lines = stage_table(counters, ROUND).splitlines()
        assert len(lines) == 2 + 2 * 5
        assert {line.count("|") for line in lines} == {lines[0].count("|")}
        assert lines[6].startswith("| **published** | **whole** |")
        lines = ratio_table(counters, [1e9]).splitlines()
        by_launches = sum(c.launches for c in published.costs.values()) / sum(c.launches for c in fast.costs.values())
        assert lines[-1].startswith("| fast |") and lines[-1].endswith(f"s: {by_launches:.1f}, 1.0 |")


def test_what_cudnn_plans_is_said_where_it_plans():
    counters = {"one": CostCounter(ROUND), "other": CostCounter(ROUND)}
    counters["other"].costs.update(generation=Cost(sdpa_plans=37))
    assert sdpa_plans(counters).startswith("other: cuDNN plans attention for 37 shapes")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("128 is too small"), "128 is too small"),
        (UnsupportedError("not on this device"), "not on this device"),
        (DeviceError("cuDNN error"), "flow_cache=disk would fail on a GPU: cuDNN error"),
        (RuntimeError("no driver\nand more"), "flow_cache=disk can't be counted without a GPU: no driver; leave"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(monkeypatch, capsys, tmp_path, error, sentence):
    def failing(*given):
        raise error

    monkeypatch.setattr(module, "count", failing)
    monkeypatch.setattr(module, "COMBINATIONS", {})
    assert main(["--variant", "flow_cache=disk", "-o", str(tmp_path / "table.md")]) == 1
    announced, printed = capsys.readouterr().err.splitlines()
    assert announced.startswith("counting") and printed.startswith(sentence)
    assert not any(tmp_path.iterdir())


def test_every_combination_of_the_tables_can_be_composed():
    for overrides in COMBINATIONS.values():
        composed(overrides, "cuda")


@pytest.mark.slow
def test_offloaded_masks_are_still_known():
    resident, offloaded = (
        count([*overrides, "reuse=exact", "schedule.raft_iterations=1"], 4, 128, 128, ROUND).costs
        for overrides in ([], ["residency=offload"])
    )
    for stage in ("completion", "generation"):
        assert offloaded[stage].flops == resident[stage].flops
