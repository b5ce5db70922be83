"""Out of memory: what counts as it, and the steps of the ladder in order."""

import logging
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.clips import applied, black, clip, small_clip

from propainter import Clip, Networks, Pipeline, Schedule
from propainter.models.networks import NETWORKS
from variants import fallback

QUICK = Schedule(raft_iterations=1)


@pytest.fixture(scope="module")
def resident(networks) -> np.ndarray:
    """The published result."""
    return Pipeline(networks, QUICK)(*clip(4))


class FakeNetworks:
    """Networks of one weight each, which say that they are on a GPU until they are moved."""

    def __init__(self) -> None:
        self.raft, self.flow_completion, self.generator = (torch.nn.Linear(1, 1).half() for _ in range(3))
        self.names = NETWORKS

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.raft.weight.dtype == torch.float16 else "cpu")


class TestLadder:
    def pipeline(self, *options: str, estimator: Callable | None = None) -> Pipeline:
        def still(frames, report):
            return (torch.zeros(1, frames.shape[1] - 1, 2, *frames.shape[-2:]),) * 2

        pipeline = Pipeline(FakeNetworks(), QUICK, flow_estimator=estimator or still)
        return applied(pipeline, "fallback=ladder", *options)

    def steps(self, pipeline: Pipeline) -> list[tuple[str, str]]:
        return [(step["stage"], step["step"]) for step in pipeline.effective["fallbacks"]]

    def inpaint(self, pipeline: Pipeline, fits: int, seen: list, stage: str = "generation") -> Callable:
        """Runs out of memory in the stage with more than `fits` frames; on the CPU it never does."""

        def run(part: Clip) -> np.ndarray:
            seen.append((len(part.frames), pipeline.networks.device.type, pipeline.dtype))
            with pipeline.contexts[0](stage):
                if len(part.frames) > fits and pipeline.networks.device.type == "cuda":
                    raise torch.OutOfMemoryError("injected\nmore of it")
            return black(part)

        return run

    def test_where_nothing_fails_nothing_is_said(self):
        pipeline = self.pipeline()
        whole = small_clip(6)
        assert np.array_equal(pipeline.clip_splitter(self.inpaint(pipeline, 99, []), whole), black(whole))
        assert pipeline.effective["fallbacks"] == []

    @pytest.mark.slow
    def test_flow_in_order(self, caplog):
        sizes = []

        def estimator(frames, report):
            sizes.append((frames.shape[-2:], pipeline.networks.device.type))
            if pipeline.networks.device.type == "cuda":
                raise torch.OutOfMemoryError("injected")
            return (torch.ones(1, 1, 2, *frames.shape[-2:]),) * 2

        pipeline = self.pipeline(estimator=estimator)
        flow_f, flow_b = pipeline.flow_estimator(torch.zeros(1, 2, 3, 1024, 1088), None)
        assert flow_f.shape == flow_b.shape == (1, 1, 2, 1024, 1088)
        assert sizes == [
            ((1024, 1088), "cuda"),
            ((512, 544), "cuda"),
            ((256, 272), "cuda"),
            ((128, 136), "cuda"),
            ((1024, 1088), "cpu"),
        ]
        steps = ["raft scale 1/2", "raft scale 1/4", "raft scale 1/8", "cpu"]
        assert self.steps(pipeline) == [("flow", step) for step in steps]
        assert pipeline.effective["fallbacks"][0]["reason"] == "injected"
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert [message.split("now ")[1] for message in warnings] == steps
        assert "raft_scale" not in pipeline.effective
        assert pipeline.networks.device.type == "cuda"

    @pytest.mark.slow
    def test_flow_at_the_first_scale_that_fits(self):
        def estimator(frames, report):
            if frames.shape[-1] > 300:
                raise MemoryError
            return (torch.ones(1, 1, 2, *frames.shape[-2:]),) * 2

        pipeline = self.pipeline(estimator=estimator)
        flow_f, _ = pipeline.flow_estimator(torch.zeros(1, 2, 3, 1024, 1024), None)
        assert torch.equal(flow_f, torch.full((1, 1, 2, 1024, 1024), 4.0))
        assert self.steps(pipeline) == [("flow", "raft scale 1/2"), ("flow", "raft scale 1/4")]
        assert pipeline.effective["raft_scale"]["flow_size"] == [256, 256]
        assert pipeline.effective["fallbacks"][0]["reason"] == "MemoryError"

    @pytest.mark.slow
    def test_scales_multiply_what_raft_scale_asks_for(self):
        sizes = []

        def estimator(frames, report):
            sizes.append(frames.shape[-1])
            raise torch.OutOfMemoryError("injected")

        pipeline = Pipeline(FakeNetworks(), QUICK, flow_estimator=estimator)
        pipeline = applied(applied(pipeline, "raft_scale=half"), "fallback=ladder", "fallback.cpu=false")
        with pytest.raises(torch.OutOfMemoryError):
            pipeline.flow_estimator(torch.zeros(1, 2, 3, 2048, 2048), None)
        assert sizes == [1024, 512, 256, 128]

    @pytest.mark.slow
    @pytest.mark.parametrize(("min_scale", "attempts"), [(1, 1), (0.5, 2), (0.25, 3), (0.125, 4)])
    def test_flow_ends_where_told(self, min_scale, attempts):
        calls = []

        def estimator(frames, report):
            calls.append(1)
            raise torch.OutOfMemoryError("injected")

        options = (f"fallback.min_scale={min_scale}", "fallback.cpu=false")
        pipeline = self.pipeline(*options, estimator=estimator)

        def inpaint(part: Clip) -> np.ndarray:
            pipeline.flow_estimator(torch.zeros(1, 2, 3, 256, 256), None)

        with pytest.raises(torch.OutOfMemoryError, match="injected"):
            pipeline.clip_splitter(inpaint, small_clip(20))
        assert len(calls) == attempts

    @pytest.mark.slow
    def test_chunks_in_order_then_the_cpu(self):
        pipeline = self.pipeline()
        pipeline.dtype = torch.float16
        seen, whole = [], small_clip(30)
        assert np.array_equal(pipeline.clip_splitter(self.inpaint(pipeline, 1, seen), whole), black(whole))
        assert seen == [*((size, "cuda", torch.float16) for size in (30, 15, 7, 5)), (30, "cpu", torch.float32)]
        steps = ["chunks of 15 frames", "chunks of 7 frames", "chunks of 5 frames", "cpu"]
        assert self.steps(pipeline) == [("generation", step) for step in steps]
        assert pipeline.effective["fallbacks"][0]["reason"] == "injected"
        assert "chunking" not in pipeline.effective
        assert pipeline.networks.device.type == "cuda"
        assert pipeline.dtype == torch.float16

    @pytest.mark.slow
    def test_the_next_run_begins_at_the_top_and_says_nothing_twice(self):
        pipeline = self.pipeline()
        for stage in ("generation", "completion"):
            seen, whole = [], small_clip(30)
            for _ in range(2):
                assert np.array_equal(
                    pipeline.clip_splitter(self.inpaint(pipeline, 15, seen, stage), whole), black(whole)
                )
            assert [count for count, *_ in seen] == [30, 15, 15, 15] * 2
        assert pipeline.effective["chunking"]["chunks"] == [[0, 15], [13, 28], [15, 30]]
        assert self.steps(pipeline) == [("generation", "chunks of 15 frames"), ("completion", "chunks of 15 frames")]

    def test_halves_the_chunks_that_were_tried(self):
        pipeline = applied(Pipeline(FakeNetworks(), QUICK), "chunking=fixed", "chunking.size=12")
        pipeline = applied(pipeline, "fallback=ladder")
        seen, whole = [], small_clip(30)
        assert np.array_equal(pipeline.clip_splitter(self.inpaint(pipeline, 6, seen), whole), black(whole))
        assert [count for count, *_ in seen][:2] == [12, 6]
        assert pipeline.effective["chunking"]["size"] == 6

    def test_without_the_cpu_it_ends_there(self):
        pipeline = self.pipeline("fallback.cpu=false", "fallback.min_chunk=8")
        seen = []
        with pytest.raises(torch.OutOfMemoryError):
            pipeline.clip_splitter(self.inpaint(pipeline, 1, seen), small_clip(30))
        assert [count for count, *_ in seen] == [30, 15, 8]

    def test_another_error_is_not_swallowed(self):
        def broken(*_):
            calls.append(1)
            raise RuntimeError("sizes do not match")

        calls = []
        pipeline = self.pipeline(estimator=broken)
        with pytest.raises(RuntimeError, match="sizes do not match"):
            pipeline.flow_estimator(torch.zeros(1, 2, 3, 256, 256), None)
        with pytest.raises(RuntimeError, match="sizes do not match"):
            pipeline.clip_splitter(broken, small_clip(30))
        assert len(calls) == 2
        assert pipeline.effective["fallbacks"] == []

    @pytest.mark.slow
    def test_the_failed_attempt_is_let_go_before_the_next(self):
        held = []

        def estimator(frames, report):
            assert all(ref() is None for ref in held)
            large = torch.zeros(1, 1, 2, *frames.shape[-2:])
            held.append(weakref.ref(large))
            if frames.shape[-1] > 256:
                raise torch.OutOfMemoryError("injected")
            return large, large

        pipeline = self.pipeline(estimator=estimator)
        pipeline.flow_estimator(torch.zeros(1, 2, 3, 1024, 1024), None)
        assert len(held) == 3

    @pytest.mark.slow
    @pytest.mark.parametrize("stage", ["flow", "generation"])
    def test_real_networks_on_a_host(self, networks, resident, stage):
        """Injected once: at half the scale (which is the full one for frames as small), or in chunks."""
        left = [1]

        def fail_once():
            if left:
                left.pop()
                raise torch.OutOfMemoryError("injected")

        pipeline = Pipeline(networks, QUICK)
        estimator = pipeline.flow_estimator
        if stage == "flow":
            pipeline.flow_estimator = lambda *given: fail_once() or estimator(*given)
        else:
            pipeline.contexts.append(lambda name: fail_once() if name == "generation" and left else nullcontext())
        without = Pipeline(networks, QUICK, flow_estimator=pipeline.flow_estimator, contexts=list(pipeline.contexts))
        with pytest.raises(torch.OutOfMemoryError):
            without(*clip(4))
        left.append(1)
        pipeline = applied(pipeline, "fallback=ladder", "fallback.min_chunk=3")
        output = pipeline(*clip(4))
        if stage == "flow":
            assert self.steps(pipeline) == [("flow", "raft scale 1/2")]
            assert np.array_equal(output, resident)
        else:
            assert self.steps(pipeline) == [("generation", "chunks of 3 frames")]
            expected = applied(Pipeline(networks, QUICK), "chunking=fixed", "chunking.size=3")(*clip(4))
            assert np.array_equal(output, expected)

    def test_weights_come_back_as_they_were(self, networks):
        """To the CPU in float32 and back, under the pipeline's inference mode, weights stay trainable tensors."""
        own = Networks(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).half(), torch.nn.BatchNorm2d(2).bfloat16())
        modules = [getattr(own, name) for name in own.names]
        before = {id(t): t.clone() for m in modules for t in (*m.parameters(), *m.buffers())}
        with torch.inference_mode(), fallback.on_the_cpu(SimpleNamespace(networks=own, dtype=torch.float16)):
            assert own.flow_completion.weight.dtype == own.generator.running_mean.dtype == torch.float32
            assert own.generator.num_batches_tracked.dtype == torch.int64
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                assert torch.equal(tensor, before[id(tensor)])
                assert tensor.dtype == before[id(tensor)].dtype
                assert not tensor.is_inference()
        own.raft(torch.ones(1, 2)).sum().backward()
