"""Which variants share a kept flow: those that give the same flow bit for bit, and no others."""

import itertools
from collections import defaultdict
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from support.flows import flows_of
from support.reusing import video_tensor

import propainter
import variants
from propainter import Pipeline, Schedule
from propainter.models.raft import ClipFlow
from variants import UnsupportedError, as_published, correlation, kernels, precision, raft_scale, reuse
from variants.flow_cache import disk
from variants.kernels import numba_math

FRAMES = (3, 136, 144)

# What each option is to the flow: options of one word give one flow.
CORRELATION = {
    "default": (as_published, "published"),
    "all_pairs": (correlation.all_pairs, "all pairs"),
    "on_demand": (correlation.on_demand, "on demand"),
}
REUSE = {
    "none": (as_published, "twice"),
    "features": (reuse.features, "twice"),
    "attention": (reuse.attention, "twice"),
    "flow": (reuse.flow, "once"),
    "exact": (reuse.exact, "once"),
}
SCALE = {
    "none": (as_published, "untouched"),
    "full": (lambda pipeline: raft_scale.scaled(pipeline, 1), "1"),
    "half": (lambda pipeline: raft_scale.scaled(pipeline, 0.5), "1/2"),
    "auto": (raft_scale.auto, "by pixels"),
}
PRECISION = {
    "none": (as_published, "float32"),
    "fp32": (precision.fp32, "IEEE float32"),
    "amp": (precision.amp, "IEEE float32"),
    "amp_all": (lambda pipeline: precision.amp(pipeline, everything=True), "bfloat16"),
}
ITERATIONS = {"1": (1, "1"), "2": (2, "2")}
GROUPS = (PRECISION, CORRELATION, REUSE, SCALE)


@pytest.fixture(scope="module")
def narrow_once(narrow):
    """`reuse=exact` leaves its mark on networks, though not on RAFT."""
    return deepcopy(narrow)


def made(networks, names, iterations: int, folder) -> Pipeline:
    pipeline = Pipeline(networks, Schedule(raft_iterations=iterations))
    for group, name in zip(GROUPS, names, strict=True):
        pipeline = group[name][0](pipeline)
    return disk(pipeline, folder)


def in_flow_stage(pipeline: Pipeline, do):
    with torch.inference_mode(), pipeline.stage("flow"):
        return do()


def test_a_key_is_shared_by_those_of_one_flow(narrow_once, tmp_path):
    """Over all combinations: as many keys as there are flows to tell apart."""
    frames, keys = video_tensor(2, 128, 128), defaultdict(set)
    for *names, iterations in itertools.product(*GROUPS, ITERATIONS):
        pipeline = made(narrow_once, names, int(iterations), tmp_path)
        flow = *(group[name][1] for group, name in zip(GROUPS, names, strict=True)), iterations
        keys[flow].add(in_flow_stage(pipeline, lambda p=pipeline: p.flow_estimator.key(frames)))
    assert {flow: len(of_flow) for flow, of_flow in keys.items() if len(of_flow) != 1} == {}
    every = [key for of_flow in keys.values() for key in of_flow]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("kind", CORRELATION)
@pytest.mark.parametrize("sharing", [("none", "features", "attention"), ("flow", "exact")], ids=["twice", "once"])
def test_what_is_shared_is_bit_equal(narrow_once, tmp_path, kind, sharing):
    """Each estimates by itself; then all read what the first has kept."""
    frames = video_tensor(*FRAMES)

    def flows(folder: str, precision: str, part: str):
        pipeline = made(narrow_once, (precision, kind, part, "half"), 2, tmp_path / folder)
        return in_flow_stage(pipeline, lambda: flows_of(pipeline, frames)), pipeline.effective["flow_cache"]["hits"]

    chosen = list(itertools.product(("fp32", "amp"), sharing))
    expected, _ = flows("shared", *chosen[0])
    for number, variant in enumerate(chosen):
        (alone, hits), (kept, later_hits) = flows(f"own {number}", *variant), flows("shared", *variant)
        assert (hits, later_hits) == (0, 1)
        for flow, own, read in zip(expected, alone, kept, strict=True):
            assert torch.equal(flow, own)
            assert torch.equal(flow, read)


class TestThePublishedEstimator:
    def test_is_kept_without_a_correlation_option(self, narrow_once, tmp_path):
        """From Python, `disk(Pipeline(networks))`: what another number of iterations gives is another entry."""
        frames = video_tensor(2, 128, 128)
        pipelines = [disk(Pipeline(narrow_once, Schedule(raft_iterations=n)), tmp_path) for n in (1, 2, 1)]
        first, other, again = (flows_of(pipeline, frames)[0] for pipeline in pipelines)
        assert [pipeline.effective["flow_cache"]["hits"] for pipeline in pipelines] == [0, 0, 1]
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_does_not_speak_for_what_it_does_not_know(self, narrow_once, tmp_path):
        class Doubled(ClipFlow):
            def estimate(self, frames):
                flow_f, flow_b = super().estimate(frames)
                return 2 * flow_f, 2 * flow_b

        own = ClipFlow(narrow_once.raft, 1, correlation=lambda: None)
        for estimator in (Doubled(narrow_once.raft, 1), own):
            assert estimator.identity is None
            with pytest.raises(UnsupportedError, match="`identity`"):
                disk(Pipeline(narrow_once, flow_estimator=estimator), tmp_path)


def test_threads_are_part_of_a_key(narrow_once, tmp_path):
    frames, estimator = video_tensor(2, 128, 128), disk(Pipeline(narrow_once), tmp_path).flow_estimator
    threads, keys = torch.get_num_threads(), set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            keys.add(estimator.key(frames))
    finally:
        torch.set_num_threads(threads)
    assert len(keys) == 3


@pytest.mark.parametrize("part", ["none", "flow"])
def test_loops_and_their_version_are_part_of_a_key(narrow, tmp_path, monkeypatch, part):
    def key(*changes) -> str:
        pipeline = Pipeline(deepcopy(narrow), Schedule(raft_iterations=1))
        for change in changes:
            pipeline = change(pipeline)
        return disk(pipeline, tmp_path).flow_estimator.key(frames)

    frames, reused = video_tensor(2, 128, 128), REUSE[part][0]
    without, by_loops = key(reused), key(reused, kernels.cpu)
    assert key(reused, kernels.cpu) == by_loops != without
    monkeypatch.setattr(numba_math, "identity", lambda: "loops of another version")
    assert key(reused, kernels.cpu) not in (without, by_loops)


def test_every_source_file_is_part_of_a_key(narrow_once, tmp_path, monkeypatch):
    """No list of files: whatever of the two packages changes, kept flows are not served any more."""

    def key() -> str:
        return disk(Pipeline(narrow_once), tmp_path).flow_estimator.key(frames)

    def with_change(changed: Path) -> str:
        monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"# changed" if path == changed else b""))
        return key()

    frames, read = video_tensor(2, 128, 128), Path.read_bytes
    sources = [path for package in (propainter, variants) for path in Path(package.__file__).parent.rglob("*.py")]
    assert {"conv_gru.py", "raft.py", "numba_gru.py"} <= {path.name for path in sources}
    keys = {key(), *map(with_change, sources)}
    assert len(keys) == 1 + len(sources)
