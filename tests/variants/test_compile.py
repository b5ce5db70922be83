"""torch.compile by component: in effect, equal within rounding, falling back with the reason."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.data import load, sample_clip
from experiments.measure.first_run import first_run
from experiments.tasks.compile_report import table
from propainter import InputError, Pipeline, Schedule
from variants.compile import compiled, cuda_graphs, falling_back, graphs_recorded

QUICK = Schedule(raft_iterations=1)


@pytest.fixture(scope="module")
def clip():
    return load(sample_clip(num_frames=2, height=128, width=128))


@pytest.fixture(autouse=True)
def _forget_what_was_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
def test_a_compiled_component_is_compiled_and_near(networks, clip):
    reference = Pipeline(networks, QUICK)(clip.frames, clip.masks)
    pipeline = compiled(Pipeline(copy.deepcopy(networks), QUICK), "reduce-overhead", ["decoder"])
    measured = first_run(pipeline, clip)
    stats = measured.effective["compile"]
    assert stats["mode"] == "reduce-overhead"
    assert stats["cuda_graphs"] == "no: cpu has no CUDA graphs"
    decoder = stats["components"]["decoder"]
    assert (decoder["status"], decoder["graphs"], decoder["graph_breaks"], decoder["recompilations"]) == (
        *("compiled", 1, {}),
        0,
    )
    assert decoder["compile_s"] > 0
    # Everything was compiled in the first run: a further one adds nothing.
    before = copy.deepcopy(decoder)
    pipeline(clip.frames, clip.masks)
    assert decoder == before
    # What is seen on modules is seen although the decoder was compiled.
    assert measured.effective["dtypes"]["decoder"] == ["float32"]
    error = measured.result.astype(int) - reference
    assert 0 < np.abs(error).max() <= 2 or not error.any()


@pytest.mark.slow
def test_what_does_not_compile_runs_eagerly_and_says_why(networks, clip):
    reference = Pipeline(networks, QUICK)(clip.frames, clip.masks)
    pipeline = Pipeline(copy.deepcopy(networks), QUICK)
    attend = pipeline.window_attention

    def breaking(*args):
        torch._dynamo.graph_break()
        return attend(*args)

    pipeline.window_attention = breaking
    for module in (pipeline.networks.generator.ss, pipeline.networks.generator.sc):
        module.forward = torch.compiler.disable(module.forward)
    pipeline = compiled(pipeline, "default", ["transformer"], fullgraph=True)
    output = pipeline(clip.frames, clip.masks)
    assert np.array_equal(output, reference)
    assert pipeline.compiled_components == {"transformer"}
    status = pipeline.effective["compile"]["components"]["transformer"]["status"]
    assert status.startswith("eager, since compiled it failed: ")


class Scaled(torch.nn.Module):
    def forward(self, x):
        return x * len(x)


def made_falling_back(module, fast):
    stats = {"status": "compiled", "graphs": 0, "graph_breaks": {}, "recompilations": 0, "skipped_frames": []}
    stats["compile_s"] = 0.0
    return falling_back(module, fast, stats, "transformer", keep_outputs=False), stats


def test_any_failure_of_compiled_code_falls_back(caplog):
    """Not only errors of Dynamo: those of a kernel's or a graph's first launch, too."""

    def broken(x):
        raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid\nlong trace")

    forward, stats = made_falling_back(Scaled(), broken)
    for _ in range(2):
        assert torch.equal(forward(torch.ones(3)), torch.full((3,), 3.0))
    reason = "RuntimeError: Triton Error [CUDA]: device kernel image is invalid"
    assert stats["status"] == f"eager, since compiled it failed: {reason}"
    assert caplog.text.count(f"compiled transformer failed and runs eagerly: {reason}") == 1


@pytest.mark.parametrize("fullgraph", [False, True])
def test_the_limit_of_recompilations_is_told(caplog, fullgraph):
    module = Scaled()
    fast = torch.compile(module.forward, backend="eager", dynamic=False, fullgraph=fullgraph)
    forward, stats = made_falling_back(module, fast)
    with torch._dynamo.config.patch(recompile_limit=2):
        for count in range(2, 7):
            assert torch.equal(forward(torch.ones(count)), torch.full((count,), float(count)))
    if fullgraph:
        assert stats["status"].startswith("eager, since compiled it failed: FailOnRecompileLimitHit: ")
        assert "compiled transformer failed" in caplog.text
    else:
        ended = "eager for new shapes from call 3 on, at torch's recompile_limit of 2"
        assert (stats["status"], stats["recompilations"]) == (f"compiled; {ended}", 1)
        assert caplog.text.count(f"transformer is {ended}") == 1


def test_cuda_graphs_are_not_claimed_where_they_cannot_be():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert cuda_graphs("reduce-overhead", cpu).startswith("no: cpu")
    assert cuda_graphs("default", cuda).startswith("no: mode default")
    assert cuda_graphs("max-autotune", cuda) == "asked for"


def test_wrong_names(networks):
    with pytest.raises(InputError, match="'tail'; give some of raft"):
        compiled(Pipeline(networks), "default", ["tail"])
    with pytest.raises(InputError, match="'fastest'; give one of default"):
        compiled(Pipeline(networks), "fastest", ["decoder"])


@pytest.mark.slow
def test_report(bench):
    done = bench(
        "experiment=compile_report",
        "task.components=[decoder]",
        *("data.num_frames=2", "data.height=128", "data.width=128", "schedule.raft_iterations=1"),
    )
    assert done.code == 0, done.err
    report = json.loads((done.folder / "compile_report.json").read_text())
    assert list(report["components"]) == ["decoder"]
    assert report["components"]["decoder"]["graphs"] == 1
    assert table(report) in done.out


def test_cuda_graphs_are_told_by_what_was_recorded():
    leaf = SimpleNamespace(children={})
    root = SimpleNamespace(children={1: [leaf, leaf], 2: [leaf]})
    assert graphs_recorded(SimpleNamespace(roots={0: [root], 3: [leaf]})).startswith("yes: 5 recorded")
    for nothing in (None, SimpleNamespace(roots={})):
        assert graphs_recorded(nothing).startswith("no: asked for, and none was recorded")
