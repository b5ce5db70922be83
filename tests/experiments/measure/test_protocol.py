"""Measuring one pipeline, and two in turn: what is timed, when, and what is said of it."""

from itertools import count

import numpy as np
import pytest
import torch
from support.command_line import SMALLEST

from experiments.data import load, sample_clip
from experiments.errors import NonFiniteError
from experiments.measure import first_run as first_runs
from experiments.measure import paired as pairing
from experiments.measure import protocol as measuring
from experiments.measure.first_run import FirstRun, FirstRunObserver, first_run
from experiments.measure.options import Options
from experiments.measure.paired import run_interleaved
from experiments.measure.profile_passes import Profile
from experiments.measure.protocol import Timings, time_runs, warm_up
from experiments.measure.timing import TimedRun, inputs_of
from experiments.record.sections import describe_cost, describe_speedup
from experiments.record.summary import gap_note
from experiments.tasks.aa_test import planted
from propainter import STAGES, Observer, Pipeline, Schedule
from propainter.memory_tracker import RssPeak

QUICK = Schedule(raft_iterations=1)


@pytest.fixture(scope="module")
def clip():
    return load(sample_clip(num_frames=2, height=128, width=128))


@pytest.fixture(scope="module")
def first(networks, clip) -> FirstRun:
    return first_run(Pipeline(networks, QUICK), clip)


@pytest.fixture(scope="module")
def timings(networks, clip) -> Timings:
    return time_runs(Pipeline(networks, QUICK), inputs_of(clip), Options(None, 2, 2, 100, 1))


class TestOnePipeline:
    def test_stages_add_up(self, first, timings):
        assert len(timings.runs) == len(timings.samples_s) == 2
        assert first.stages == STAGES
        for run in timings.runs:
            assert 0.9 * run.seconds < sum(run.stage_seconds.values()) <= run.seconds
            assert run.result.size == 0

    def test_memory_is_the_first_runs(self, first):
        assert list(first.memory.peak_bytes) == list(STAGES)
        assert max(first.memory.peak_bytes.values()) == first.memory.host_peak_bytes > 1e6

    def test_one_reading_gives_the_stage_and_the_whole(self, monkeypatch):
        readings = count(4096, 4096)
        monkeypatch.setattr(RssPeak, "peak_bytes", lambda self: next(readings))
        monkeypatch.setattr(RssPeak, "reset", lambda self: None)
        monkeypatch.setattr(first_runs, "memory_peak", lambda device: RssPeak())
        watch = FirstRunObserver(torch.device("cpu"))
        for stage in ("flow", "generation"):
            with watch.stage(stage):
                pass
        assert watch.memory.host_peak_bytes == max(watch.memory.peak_bytes.values()), "reading it takes memory too"

    def test_the_harness_takes_next_to_nothing_of_it(self, timings):
        assert all(0 < run.harness_s < 0.01 * run.seconds for run in timings.runs)

    def test_the_record_has_it_all(self, first, timings):
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

    def test_stages_that_miss_the_whole_are_noted(self, first):
        gap = TimedRun(np.empty(0), 2.0, {"flow": 1.0}, 0.0)
        cost = describe_cost(first, 2, Timings(runs=[gap]))
        assert cost["latency"]["stage_gap"] == 0.5
        assert any("miss the whole by 50.0%" in line for line in gap_note(cost["latency"]["stage_gap"]))
        assert cost["disturbed"] == [], "slow work outside the stages is the run's own, and the gate has to see it"

    def test_nothing_is_timed_where_nothing_is_asked(self, networks, clip, first):
        timings = time_runs(Pipeline(networks, QUICK), inputs_of(clip), Options(None, 0, 0, 0, 0, 0))
        assert (timings.runs, timings.sampling, timings.median_s) == ([], None, None)
        assert first.result.shape == clip.frames.shape
        cost = describe_cost(first, 2, timings)
        assert (cost["latency"]["median_s"], cost["machine"]) == (None, {"ceilings": None})

    def test_long_runs_are_timed_once(self, networks, clip):
        timings = time_runs(Pipeline(networks, QUICK), inputs_of(clip), Options(0.1, 3, 30, 0.01, 0))
        assert len(timings.runs) == 1
        assert timings.sampling.stopped_by == "max_seconds"

    def test_the_observer_is_put_back(self, networks, clip):
        mine = Observer()
        pipeline = Pipeline(networks, QUICK, observer=mine)
        first_run(pipeline, clip)
        time_runs(pipeline, inputs_of(clip), Options(None, 1, 1, 100, 0))
        assert pipeline.observer is mine

    @pytest.mark.parametrize("stage", STAGES)
    def test_a_value_that_is_not_finite_names_its_stage(self, networks, clip, stage, monkeypatch):
        def poisoned(module, inputs, output):
            output = output.clone()
            output.view(-1)[0] = torch.nan
            return output

        pipeline = Pipeline(networks, QUICK)
        hook = None
        if stage == "flow":
            estimate = pipeline.flow_estimator
            pipeline.flow_estimator = lambda *args: tuple(flow * torch.inf for flow in estimate(*args))
        elif stage == "propagation":
            broken = lambda frames, *_: (frames + torch.nan, frames[:, :, :1])  # noqa: E731
            monkeypatch.setattr("propainter.inference.pipeline.propagate_pixels", broken)
        else:
            module = networks.flow_completion if stage == "completion" else networks.generator.decoder
            hook = module.register_forward_hook(poisoned)
        try:
            with pytest.raises(NonFiniteError, match=f"stage {stage} "):
                first_run(pipeline, clip)
        finally:
            if hook:
                hook.remove()

    def test_memory_kept_alive_in_a_stage_shows_there(self, networks, clip):
        size = 200_000_000

        class Keeping:
            def __init__(self, name):
                self.name = name

            def __enter__(self):
                self.kept = np.ones(size, np.uint8) if self.name == "completion" else None

            def __exit__(self, *error):
                del self.kept

        plain = first_run(Pipeline(networks, QUICK), clip).memory.peak_bytes
        pipeline = Pipeline(networks, QUICK)
        with planted(pipeline, Keeping):
            found = first_run(pipeline, clip).memory.peak_bytes
        assert found["completion"] - plain["completion"] == pytest.approx(size, rel=0.1)
        assert found["flow"] - plain["flow"] < 0.2 * size


class Scripted:
    """Stands for `timed_run`: seconds of a side by its script, the last for ever; notes who ran."""

    def __init__(self, **seconds):
        self.seconds = {side: list(values) for side, values in seconds.items()}
        self.ran = []

    def __call__(self, side, inputs):
        self.ran.append(side)
        script = self.seconds[side]
        seconds = script.pop(0) if len(script) > 1 else script[0]
        return TimedRun(np.zeros(3, np.uint8), seconds, {"flow": 0.5 * seconds, "generation": 0.5 * seconds}, 0.0)


class TestWarmUp:
    @pytest.mark.parametrize(
        ("script", "first", "runs"),
        [([9, 5, 1.0, 1.05], 20, 4), ([1.0, 1.05], 1.02, 1), ([1.0, 1.05], None, 2), ([9, 7, 5, 3, 2], 20, 5)],
    )
    def test_until_two_runs_agree_or_there_were_enough(self, monkeypatch, script, first, runs):
        monkeypatch.setattr(measuring, "timed_run", Scripted(variant=script))
        assert len(warm_up("variant", (), Options(0.1, max_warmups=5), first)) == runs


class TestPaired:
    OPTIONS = Options(0.1, min_pairs=6, max_samples=30, max_seconds=0)

    def test_sides_take_turns_in_both_orders(self, monkeypatch):
        scripted = Scripted(a=[2.0], b=[1.0])
        monkeypatch.setattr(pairing, "timed_run", scripted)
        paired = run_interleaved("a", "b", (), self.OPTIONS)
        assert "".join(scripted.ran) == "abbaabbaabba"
        speedup = describe_speedup(Timings(paired=paired), {"id": "published#0"})
        assert (speedup["baseline"], speedup["pairs"], speedup["median"]) == ("published#0", 6, 2.0)
        assert speedup["stages"]["flow"]["median"] == speedup["stages"]["generation"]["median"] == 2.0
        assert "completion" not in speedup["stages"]
        assert (speedup["baseline_samples_s"], speedup["variant_samples_s"]) == ([2.0] * 6, [1.0] * 6)
        assert all(run.result.size == 0 for run in paired.runs)

    def test_a_machine_that_slows_down_slows_both(self, monkeypatch):
        drift = [1.2**n for n in range(12)]
        monkeypatch.setattr(pairing, "timed_run", Scripted(a=drift, b=drift))
        interval = run_interleaved("a", "b", (), self.OPTIONS).ratios.interval
        assert interval.low <= 1 <= interval.high

    def test_both_warm_up_and_then_take_turns(self, networks, clip):
        events = []
        pipeline, baseline = Pipeline(networks, QUICK), Pipeline(networks, QUICK)
        pipeline.contexts.append(lambda stage: events.append("variant") or torch.no_grad())
        baseline.contexts.append(lambda stage: events.append("baseline") or torch.no_grad())

        options = Options(None, 1, 2, 0, 1, min_pairs=2)
        timings = time_runs(pipeline, inputs_of(clip), options, baseline=baseline)
        pairs = ["baseline"] * 4 + ["variant"] * 8 + ["baseline"] * 4
        assert events == ["baseline"] * 4 + ["variant"] * 4 + pairs
        assert len(timings.runs) == len(timings.paired.baseline_runs) == 2


@pytest.mark.slow
class TestOnTheCommandLine:
    CHEAP = ("measure.target_relative_ci=null", "measure.min_pairs=2", "measure.max_samples=2")

    def test_a_baseline_by_groups(self, bench):
        done = bench("attention=sdpa", "measure.baseline={attention:manual}", *SMALLEST, *self.CHEAP)
        assert done.code == 0, done.err
        speedup = done.record["speedup"]
        assert speedup["baseline"].startswith("published#")
        assert speedup["baseline_variant"]["attention"] == "manual"
        assert speedup["baseline_variant"]["options"]["schedule"]["raft_iterations"] == 1
        assert speedup["pairs"] == 2
        assert "times as fast as published#" in done.out

    def test_a_variant_that_is_its_own_baseline_is_timed_alone(self, bench):
        done = bench("measure.baseline=published", *SMALLEST, *self.CHEAP)
        assert done.code == 0, done.err
        assert done.record["speedup"] is None
        assert len(done.record["latency"]["samples_s"]) == 2

    def test_a_baseline_that_does_not_exist(self, bench):
        done = bench("measure.baseline=fastest")
        assert done.code == 1
        assert "measure.baseline is 'fastest', which can't be composed" in done.err
        assert "Traceback" not in done.err

    def test_plain_inference(self, bench):
        done = bench("measure=none", "measure.min_samples=0", "measure.max_samples=0", *SMALLEST)
        assert done.code == 0, done.err
        record = done.record
        assert (record["latency"]["samples_s"], record["quality"], record["variant"]["fallback"]) == (
            [],
            None,
            "ladder",
        )
        assert (done.folder / "inpainted.mp4").exists()
        assert "nothing was timed" in done.out
