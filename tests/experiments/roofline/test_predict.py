"""What a run must take on a GPU that is not there: counts by hand, and against a real run on the CPU."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from experiments.data import load, sample_clip
from experiments.measure.flops import counting
from experiments.roofline import predict as arithmetic
from experiments.roofline.fake_cuda import fake_cuda_device
from experiments.roofline.op_costs import Ceilings, Cost, Ledger, moved_bytes
from experiments.roofline.predict import COMBINATIONS, count, main, ratio_table, stage_table, whole_s
from propainter import InputError, Observer, Pipeline, Schedule
from variants import UnsupportedError
from variants.precision import tf32_flags
from variants.presets import composed

SMALL = dict(frames=3, height=128, width=128)
ONCE = ["schedule.raft_iterations=1"]
ROUND = Ceilings(
    "round",
    {"float32": 1e6, "tf32": 1e7, "float16": 1e7},
    bytes_per_s=1e6,
    launch_s=1e-3,
    reached={"float32": 0.5, "tf32": 0.5, "float16": 0.5, "bytes": 0.5},
)


def ledger_of(run):
    ledger, pipeline = Ledger(ROUND), SimpleNamespace(observer=Observer())
    with fake_cuda_device(), counting(pipeline, ledger), pipeline.observer.stage("flow"):
        run()
    return ledger


def on_cuda(*shape, dtype=torch.float32):
    return torch.empty(*shape, device="cuda", dtype=dtype)


class TestByHand:
    def test_a_convolution(self):
        def run():
            x, conv = on_cuda(2, 4, 8, 8), nn.Conv2d(4, 6, 3, padding=1, bias=False, device="cuda")
            with tf32_flags(False):
                conv(x)

        ledger = ledger_of(run)
        cost = ledger.costs["flow"]
        operations, numbers = 2 * 2 * 64 * 6 * 4 * 9, 2 * 4 * 64 + 6 * 4 * 9 + 2 * 6 * 64
        assert cost.flops == {"float32": operations}
        # Its weight is drawn in the same stage: one more operation, which reads and writes it.
        assert cost.launches == 2
        assert cost.moved_bytes == 4 * numbers + 2 * 4 * (6 * 4 * 9)
        assert cost.compute_s == pytest.approx(operations / 1e6)
        assert cost.busy_s == pytest.approx(operations / 1e6 + 2 * 4 * (6 * 4 * 9) / 1e6)
        assert cost.likely_s == pytest.approx(2 * cost.busy_s)
        assert cost.peak_bytes == 4 * numbers and ledger.live_bytes == 0

    def test_views_cost_nothing_and_copies_their_bytes(self):
        def run():
            x = on_cuda(10, 10)
            x.view(100).unsqueeze(0)[:, 5:].expand(3, -1)
            x.t().contiguous()

        cost = ledger_of(run).costs["flow"]
        assert (cost.launches, cost.moved_bytes, cost.peak_bytes) == (1, 800, 800)

    def test_what_is_let_go_does_not_count_towards_the_peak(self):
        def run():
            for _ in range(5):
                on_cuda(1000)

        assert ledger_of(run).costs["flow"].peak_bytes == 4000

    def test_picked_values_are_read_not_the_whole_tensor(self):
        table_of_rows, index, output = torch.empty(1000, 4), torch.empty(2, dtype=torch.int64), torch.empty(2, 4)
        assert moved_bytes(torch.ops.aten.index_select, [table_of_rows, index], [output]) == 2 * 32 + 16

    def test_half_precision_by_autocast_counts_as_half(self):
        def run():
            a = on_cuda(8, 8)
            with torch.autocast("cuda", dtype=torch.float16):
                a @ a

        assert ledger_of(run).costs["flow"].flops == {"float16": 2 * 8**3}

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_sdpa_is_one_kernel_that_keeps_no_scores(self, dtype):
        def run():
            q, k = on_cuda(2, 4, 64, 16, dtype=dtype), on_cuda(2, 4, 4096, 16, dtype=dtype)
            with tf32_flags(False):
                nn.functional.scaled_dot_product_attention(q, k, k)

        cost = ledger_of(run).costs["flow"]
        assert cost.launches == 1
        assert cost.flops == {str(dtype).removeprefix("torch."): 2 * 2 * (2 * 4) * 64 * 4096 * 16}
        assert cost.peak_bytes < 4 * (2 * 4 * 64 * 4096)


class TestBound:
    def test_the_longer_of_work_and_launches(self):
        cost = Cost(launches=10, compute_s=3.0, traffic_s=1.0, busy_s=3.5)
        assert (cost.bound_s(0.1), cost.binds(0.1)) == (3.5, "operations")
        assert (cost.bound_s(1.0), cost.binds(1.0)) == (10.0, "launches")
        assert Cost(compute_s=1.0, traffic_s=2.0, busy_s=2.0).binds(0.1) == "bytes"

    def test_the_whole_is_the_sum_of_the_stages_bounds(self):
        ledger = Ledger(ROUND)
        ledger.costs.update(flow=Cost(launches=10, busy_s=2.0, likely_s=4.0), generation=Cost(launches=30, busy_s=1.0))
        assert whole_s(ledger, 0.1, likely=False) == pytest.approx(2.0 + 3.0)
        assert whole_s(ledger, 0.1, likely=True) == pytest.approx(4.0 + 3.0)
        assert whole_s(ledger, 0.0, likely=True) == pytest.approx(4.0)


@pytest.fixture(scope="module")
def published():
    return count(["preset=published", *ONCE], **SMALL, ceilings=ROUND)


@pytest.fixture(scope="module")
def fast():
    return count(["reuse=exact", "attention=sdpa", "precision=amp_all", *ONCE], **SMALL, ceilings=ROUND)


class TestRun:
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

    def test_tf32_counts_as_such(self, published):
        allowed = count(["preset=published", "precision=tf32", *ONCE], **SMALL, ceilings=ROUND)
        for stage in ("flow", "completion", "generation"):
            assert allowed.counts[stage]["tf32"] > 10 * allowed.counts[stage].get("float32", 0)
            assert sum(allowed.counts[stage].values()) == sum(published.counts[stage].values())

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
        ledgers = {"published": published, "fast": fast}
        lines = stage_table(ledgers, ROUND).splitlines()
        assert len(lines) == 2 + 2 * 5
        assert lines[6].startswith("| **published** | **whole** |")
        lines = ratio_table(ledgers, [1e9]).splitlines()
        by_launches = sum(c.launches for c in published.costs.values()) / sum(c.launches for c in fast.costs.values())
        assert lines[-1].startswith("| fast |") and lines[-1].endswith(f"s: {by_launches:.1f}, 1.0 |")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("128 is too small"), "128 is too small"),
        (UnsupportedError("not on this device"), "not on this device"),
        (RuntimeError("no driver\nand more"), "flow_cache=disk can't be counted without a GPU: no driver; leave"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(monkeypatch, capsys, tmp_path, error, said):
    def failing(*given):
        raise error

    monkeypatch.setattr(arithmetic, "count", failing)
    monkeypatch.setattr(arithmetic, "COMBINATIONS", {})
    assert main(["--variant", "flow_cache=disk", "-o", str(tmp_path / "table.md")]) == 1
    counting_it, sentence = capsys.readouterr().err.splitlines()
    assert counting_it.startswith("counting") and sentence.startswith(said)
    assert not any(tmp_path.iterdir())


def test_every_combination_of_the_tables_can_be_composed():
    for overrides in COMBINATIONS.values():
        composed(overrides, "cuda")
