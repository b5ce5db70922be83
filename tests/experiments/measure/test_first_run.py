"""The first run: its memory by stage, and values that are not finite."""

from itertools import count

import numpy as np
import pytest
import torch

from experiments.errors import NonFiniteError
from experiments.measure import first_run as module
from experiments.measure.first_run import FirstRunObserver, first_run
from experiments.tasks.aa_test import planted
from propainter import STAGES, Pipeline, Schedule
from propainter.memory_tracker import RssPeak

QUICK = Schedule(raft_iterations=1)


def test_memory_is_by_stage(first):
    assert list(first.memory.peak_bytes) == list(STAGES)
    assert max(first.memory.peak_bytes.values()) == first.memory.host_peak_bytes > 1e6


def test_one_reading_gives_the_stage_and_the_whole(monkeypatch):
    readings = count(4096, 4096)
    monkeypatch.setattr(RssPeak, "peak_bytes", lambda self: next(readings))
    monkeypatch.setattr(RssPeak, "reset", lambda self: None)
    monkeypatch.setattr(module, "memory_peak", lambda device: RssPeak())
    watch = FirstRunObserver(torch.device("cpu"))
    for stage in ("flow", "generation"):
        with watch.stage(stage):
            pass
    assert watch.memory.host_peak_bytes == max(watch.memory.peak_bytes.values()), "reading it takes memory too"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_value_that_is_not_finite_names_its_stage(networks, clip, stage, monkeypatch):
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
        network = networks.flow_completion if stage == "completion" else networks.generator.decoder
        hook = network.register_forward_hook(poisoned)
    try:
        with pytest.raises(NonFiniteError, match=f"stage {stage} "):
            first_run(pipeline, clip)
    finally:
        if hook:
            hook.remove()


@pytest.mark.slow
def test_memory_kept_alive_in_a_stage_shows_there(networks, clip):
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
