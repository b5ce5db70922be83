"""Measuring one pipeline, and two in turn: which runs are timed, when, and what the record has of them."""

import pytest
import torch
from support.command_line import SMALLEST
from support.scripted import Scripted

from experiments.measure import protocol as measuring
from experiments.measure.first_run import first_run
from experiments.measure.protocol import time_runs, warm_up
from experiments.measure.timing import Options, inputs_of
from experiments.record.sections import describe_cost
from propainter import STAGES, Observer, Pipeline, Schedule

QUICK = Schedule(raft_iterations=1)


class TestOnePipeline:
    def test_stages_add_up(self, first, timings):
        assert len(timings.runs) == len(timings.samples_s) == 2
        assert first.stages == STAGES
        for run in timings.runs:
            assert 0.9 * run.seconds < sum(run.stage_seconds.values()) <= run.seconds
            assert run.result.size == 0

    def test_the_harness_takes_next_to_nothing_of_it(self, timings):
        assert all(0 < run.harness_s < 0.01 * run.seconds for run in timings.runs)

    def test_nothing_is_timed_where_nothing_is_asked(self, networks, clip, first):
        timings = time_runs(Pipeline(networks, QUICK), inputs_of(clip), Options(None, 0, 0, 0, 0, 0))
        assert (timings.runs, timings.sampling, timings.median_s) == ([], None, None)
        assert first.result.shape == clip.frames.shape
        cost = describe_cost(first, 2, timings)
        assert (cost["latency"]["median_s"], cost["machine"]) == (None, {"ceilings": None})

    @pytest.mark.slow
    def test_long_runs_are_timed_once(self, networks, clip):
        timings = time_runs(Pipeline(networks, QUICK), inputs_of(clip), Options(0.1, 3, 30, 0.01, 0))
        assert len(timings.runs) == 1
        assert timings.sampling.stopped_by == "max_seconds"

    @pytest.mark.slow
    def test_the_observer_is_put_back(self, networks, clip):
        mine = Observer()
        pipeline = Pipeline(networks, QUICK, observer=mine)
        first_run(pipeline, clip)
        time_runs(pipeline, inputs_of(clip), Options(None, 1, 1, 100, 0))
        assert pipeline.observer is mine


class Named(str):
    """A pipeline that a script goes by."""

    effective: dict = {}


class TestWarmUp:
    @pytest.mark.parametrize(
        ("script", "first", "runs"),
        [([9, 5, 1.0, 1.05], 20, 4), ([1.0, 1.05], 1.02, 1), ([1.0, 1.05], None, 2), ([9, 7, 5, 3, 2], 20, 5)],
    )
    def test_until_two_runs_agree_or_there_were_enough(self, monkeypatch, script, first, runs):
        monkeypatch.setattr(measuring, "timed_run", Scripted(variant=script))
        assert len(warm_up(Named("variant"), (), Options(0.1, max_warmups=5), first)) == runs

    @pytest.mark.parametrize(("first", "runs"), [(5, 1), (None, 2)])
    def test_graphs_are_recorded_before_a_run_is_timed(self, monkeypatch, first, runs):
        monkeypatch.setattr(measuring, "timed_run", Scripted(variant=[9, 5, 1]))
        graphed = Named("variant")
        graphed.effective = {"cuda_graphs": {}}
        assert len(warm_up(graphed, (), Options(0.1, max_warmups=0), first)) == runs


class TestPaired:
    @pytest.mark.slow
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

    def test_plain_inference(self, bench):
        done = bench("measure=none", "measure.min_samples=0", "measure.max_samples=0", *SMALLEST)
        assert done.code == 0, done.err
        record = done.record
        assert (record["latency"]["samples_s"], record["quality"], record["variant"]["fallback"]) == (
            [],
            None,
            "ladder",
        )
        assert f"result: {done.folder / 'inpainted.mp4'}\n" in done.out
        assert (done.folder / "inpainted.mp4").exists()
        assert "these are the times of one run, not a measurement" in done.out
        latency, stages = record["latency"], record["stages"].values()
        assert 0 < sum(stage["first_s"] for stage in stages) <= latency["first_s"]
        assert latency["first_frames_per_s"] == pytest.approx(record["data"]["frames"] / latency["first_s"])
        where = latency["where_s"]
        assert all(seconds > 0 for seconds in where.values())
        assert where["inpaint"] == latency["first_s"]
        assert sum(where.values()) - where["start"] <= record["run"]["wall_s"]
        assert latency["median_s"] is latency["frames_per_s"] is None
        assert {stage["median_s"] for stage in stages} == {None}
