"""Flows kept on disk: one key each, whole or absent, bounded, safe with several processes."""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from copy import deepcopy
from functools import partial
from importlib import import_module, invalidate_caches
from pathlib import Path

import numpy as np
import pytest
import torch
from support.command_line import ROOT
from support.flows import flows_of, noise, option
from support.reusing import video_tensor

import propainter
import variants
from propainter import InputError, Pipeline, Schedule
from propainter.models.raft import ClipFlow
from variants import UnsupportedError, as_published, correlation, flow_cache, kernels, precision, raft_scale, reuse
from variants.correlation import all_pairs, on_demand
from variants.flow_cache import disk
from variants.kernels import numba_math
from variants.raft_scale import ScaledFlow, auto, scaled

QUICK = Schedule(raft_iterations=2)
ONCE = Schedule(raft_iterations=1)


class Counted:
    """An estimator that counts its calls, and gives what depends on the frames."""

    identity = "counted"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frames, report):
        self.calls += 1
        return frames[:, 1:, :2] * 3, frames[:, :-1, :2] * 5


@pytest.fixture
def cached(networks, tmp_path):
    """cached(**options) is a pipeline over a counted estimator that keeps flows in one folder."""

    def make(folder=tmp_path / "flows", estimator=None, **options) -> Pipeline:
        return disk(Pipeline(networks, QUICK, estimator or Counted()), folder, **options)

    return make


class TestCache:
    @pytest.mark.slow
    def test_in_effect_with_raft(self, networks, tmp_path):
        """Cold, then from disk: in the same run and in the next, bit-equal, with what the flow was made with."""
        frames, expected = noise(), flows_of(Pipeline(networks, QUICK), noise())

        def command() -> Pipeline:
            pipeline = option("correlation", "all_pairs")(Pipeline(networks, QUICK))
            pipeline = option("raft_scale", "half")(pipeline)
            return option("flow_cache", "disk", f"flow_cache.folder={tmp_path / 'flows'}")(pipeline)

        first, second = command(), command()
        assert first.caches_flow and not Pipeline(networks, QUICK).caches_flow
        flows = [flows_of(pipeline, frames) for pipeline in (first, first, second)]
        for pair in flows:
            assert all(torch.equal(got, wanted) for got, wanted in zip(pair, expected, strict=True))
        stats, later = first.effective["flow_cache"], second.effective["flow_cache"]
        assert (stats["hits"], stats["misses"], stats["kept"]) == (1, 1, 1)
        assert (later["hits"], later["misses"], later["cold_s"]) == (1, 0, None)
        assert stats["cold_s"] > stats["avoided_s"][0] == later["avoided_s"][0] > stats["hit_s"][0] > 0
        assert len(list((tmp_path / "flows").iterdir())) == 1
        assert "from_cache" not in first.effective["correlation"]
        for group in ("correlation", "raft_scale"):
            assert second.effective[group] == {**first.effective[group], "from_cache": True}
        json.dumps(second.effective)

    def test_inputs_and_settings_that_share_nothing(self, networks, cached):
        """Whatever shapes the flow is another entry."""
        other_weights = deepcopy(networks)
        with torch.no_grad():
            next(other_weights.raft.parameters()).flatten()[0].add_(1e-3)
        frames = noise()
        one_value = frames.clone()
        one_value[0, 0, 0, 0, 0] += 1e-6
        plain = cached().flow_estimator
        keys = [plain.key(frames), plain.key(one_value), plain.key(frames[:, :2]), plain.key(noise(3, 136, 128))]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            keys.append(plain.key(frames))
        for change in (
            lambda: on_demand(Pipeline(networks, QUICK)),
            lambda: all_pairs(Pipeline(networks, QUICK)),
            lambda: all_pairs(Pipeline(networks, Schedule(raft_iterations=3))),
            lambda: all_pairs(Pipeline(other_weights, QUICK)),
            lambda: scaled(all_pairs(Pipeline(networks, QUICK)), 1 / 2),
            lambda: scaled(all_pairs(Pipeline(networks, QUICK)), 1 / 4),
            lambda: auto(all_pairs(Pipeline(networks, QUICK))),
        ):
            keys.append(disk(change(), "unused").flow_estimator.key(frames))
        assert len(set(keys)) == len(keys)
        assert plain.key(frames.clone()) == keys[0]

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "noise", "without"])
    def test_a_damaged_entry_is_made_again(self, cached, tmp_path, caplog, damage):
        frames = noise()
        estimator = Counted()
        expected = flows_of(cached(estimator=estimator), frames)
        (path,) = (tmp_path / "flows").iterdir()
        whole = path.read_bytes()
        if damage == "without":
            from safetensors.torch import save_file

            save_file({"flow_f": torch.zeros(1), "flow_b": torch.ones(1)}, path)
        else:
            flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
            path.write_bytes({"truncated": whole[:-9], "flipped": flipped, "empty": b"", "noise": b"\xff" * 99}[damage])
        pipeline = cached(estimator=estimator)
        for pair in (flows_of(pipeline, frames), flows_of(pipeline, frames)):
            assert all(torch.equal(got, wanted) for got, wanted in zip(pair, expected, strict=True))
        assert estimator.calls == 2
        assert (pipeline.effective["flow_cache"]["hits"], pipeline.effective["flow_cache"]["misses"]) == (1, 1)
        assert "is damaged" in caplog.text
        assert path.stat().st_size == len(whole)

    def test_the_oldest_go(self, cached, tmp_path):
        """Room for two: the one used longest ago goes."""
        size = 2 * noise(2)[:, 1:, :2].nbytes + 2000
        pipeline = cached(max_gb=2 * size / 2**30)
        estimator = pipeline.flow_estimator
        for seed in (0, 1):
            flows_of(pipeline, noise(2, seed=seed))
            path = estimator.entries.path(estimator.key(noise(2, seed=seed)))
            os.utime(path, (seed, seed))
        for seed in (0, 2, 0):
            flows_of(pipeline, noise(2, seed=seed))
        assert pipeline.effective["flow_cache"]["hits"] == 2
        assert len(list((tmp_path / "flows").iterdir())) == 2
        flows_of(pipeline, noise(2, seed=1))
        assert pipeline.effective["flow_cache"]["misses"] == 4

    def test_what_is_larger_than_the_folder_is_not_kept(self, cached, tmp_path, caplog):
        pipeline = cached(max_gb=1e-6)
        flows_of(pipeline, noise())
        assert not (tmp_path / "flows").exists()
        assert pipeline.effective["flow_cache"]["kept"] == 0
        assert "not kept" in caplog.text

    @pytest.mark.parametrize("failure", ["folder", "full", "serializer"])
    def test_a_disk_that_takes_nothing_is_a_warning(self, cached, tmp_path, caplog, monkeypatch, failure):
        folder = tmp_path / "flows"
        if failure == "folder":
            (tmp_path / "file").touch()
            folder = tmp_path / "file" / "flows"
        else:
            error = OSError(28, "No space left on device") if failure == "full" else flow_cache.SafetensorError("full")

            def save(tensors, path, metadata):
                path.write_bytes(b"half of it")
                raise error

            monkeypatch.setattr(flow_cache, "save_file", save)
        pipeline = cached(folder)
        flows = flows_of(pipeline, noise())
        assert torch.equal(flows[0], noise()[:, 1:, :2] * 3)
        assert "could not be kept" in caplog.text
        assert pipeline.effective["flow_cache"]["kept"] == 0
        assert not folder.is_dir() or not list(folder.iterdir())

    def test_flows_of_one_storage(self, cached):
        """An estimator may give two views of one tensor."""

        def halves(frames, report):
            return (frames[:, :2, :2] * 2).chunk(2, dim=1)

        halves.identity = "halves"
        pipeline = cached(estimator=halves)
        results = [flows_of(pipeline, noise()) for _ in range(2)]
        assert pipeline.effective["flow_cache"]["hits"] == 1
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    def test_progress_is_complete_on_a_hit(self, cached):
        pipeline, steps = cached(), []
        for _ in range(2):
            pipeline.flow_estimator(noise(), lambda *step: steps.append(step))
        assert steps == [(3, 3)]

    def test_threads_at_once(self, cached, tmp_path, caplog):
        """Eight runs meet on one missing entry: all get the flow, one entry is left, nothing half-written is read."""
        start, frames, results = threading.Barrier(8), noise(), []

        def work() -> None:
            pipeline = cached()
            start.wait()
            results.extend(flows_of(pipeline, frames) for _ in range(5))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 40
        assert all(torch.equal(flow_f, frames[:, 1:, :2] * 3) for flow_f, _ in results)
        assert len(list((tmp_path / "flows").iterdir())) == 1
        assert "damaged" not in caplog.text

    @pytest.mark.slow
    def test_processes_at_once(self, tmp_path):
        """Two processes write one entry over and over, and read it in between."""
        script = """
import sys, torch
from types import SimpleNamespace
from propainter.io.disk_cache import DiskLRUCache
from variants.flow_cache import CachedFlow

def estimate(frames, report):
    return frames[:, 1:, :2] * 3, frames[:, 1:, :2] * 5

estimate.identity = "test"
frames = torch.arange(2 * 3 * 256 * 256).float().view(1, 2, 3, 256, 256)
cache = CachedFlow(estimate, torch.nn.Linear(1, 1, bias=False), DiskLRUCache(sys.argv[1], 10**9, ".safetensors"), {})
cache._weights = "the same"
key = cache.key(frames)
for number in range(60):
    if number % 2:
        cache._estimate(key, frames, None)
    flow_f, flow_b = cache(frames)
    assert torch.equal(flow_f, frames[:, 1:, :2] * 3) and torch.equal(flow_b, frames[:, 1:, :2] * 5)
"""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", script, str(tmp_path / "flows")]
        runs = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        errors = [run.communicate(timeout=300)[1] for run in runs]
        assert [run.returncode for run in runs] == [0, 0], errors
        assert not any("damaged" in text for text in errors)
        assert len(list((tmp_path / "flows").iterdir())) == 1

    @pytest.mark.parametrize(
        "of",
        [
            lambda module: module.Estimator(),
            lambda module: ScaledFlow(module.Estimator(), 1 / 2),
            lambda module: module.function,
        ],
        ids=["object", "inner", "function"],
    )
    def test_the_source_of_a_users_estimator_is_part_of_the_key(self, cached, tmp_path, monkeypatch, of):
        source = "class Estimator:\n    identity = 'mine'\n\ndef function(*_): {}\n\nfunction.identity = 'mine'\n"
        monkeypatch.syspath_prepend(tmp_path)
        keys = []
        for body in ("...", "...", "return None"):
            (tmp_path / "users_estimator.py").write_text(source.format(body))
            monkeypatch.delitem(sys.modules, "users_estimator", raising=False)
            invalidate_caches()
            keys.append(cached(estimator=of(import_module("users_estimator"))).flow_estimator.key(noise()))
        monkeypatch.delitem(sys.modules, "users_estimator")
        assert keys[0] == keys[1] != keys[2]

    @pytest.mark.parametrize("around", [lambda inner: inner, lambda inner: ScaledFlow(inner, 1 / 2)])
    def test_flow_of_an_estimator_that_fell_back_is_not_kept(self, cached, caplog, around):
        """It is another flow than the key says."""
        estimator = Counted()
        estimator.fell_back = True
        pipeline = cached(estimator=around(estimator))
        for _ in range(2):
            flows_of(pipeline, noise())
        assert estimator.calls == 2 and pipeline.effective["flow_cache"]["kept"] == 0
        assert "flow is not kept" in caplog.text
        estimator.fell_back = False
        for _ in range(2):
            flows_of(pipeline, noise())
        assert estimator.calls == 3

    def test_an_estimator_without_identity_is_refused(self, networks, cached):
        for estimator in (lambda frames, report: None, ClipFlow(networks.raft, correlation=lambda: None)):
            with pytest.raises(UnsupportedError, match="`identity`"):
                cached(estimator=estimator)
            with pytest.raises(UnsupportedError, match="`identity`"):
                cached(estimator=ScaledFlow(estimator, 1 / 2))

    def test_a_wrapped_network_is_refused(self, networks, tmp_path):
        """The weights of a wrapped module do not determine its output."""
        own = deepcopy(networks)
        own.raft.feature_encoder.forward = partial(own.raft.feature_encoder.forward)
        pipeline = disk(all_pairs(Pipeline(own, QUICK)), tmp_path)
        with pytest.raises(UnsupportedError, match="feature_encoder is wrapped"):
            flows_of(pipeline, noise())

    def test_a_bound_that_makes_no_sense(self, cached):
        with pytest.raises(InputError, match="max_gb is 0"):
            cached(max_gb=0)


class TestWholePipeline:
    @pytest.mark.slow
    def test_all_three_together(self, networks, tmp_path):
        """on_demand, half and disk on a clip: the cached runs give the cold run's frames."""
        video = np.random.default_rng(0).integers(0, 256, (2, 136, 144, 3), dtype=np.uint8)
        mask = np.zeros((136, 144), np.uint8)
        mask[40:60, 50:80] = 1
        pipeline = Pipeline(networks, ONCE)
        pipeline = disk(scaled(on_demand(pipeline), 1 / 2), tmp_path)
        results = [pipeline(video, mask) for _ in range(2)]
        assert np.array_equal(*results)
        assert pipeline.effective["flow_cache"]["hits"] == 1
        assert pipeline.effective["raft_scale"]["flow_size"] == [128, 136]
        assert pipeline.effective["correlation"]["kind"] == "on_demand"
        assert not np.array_equal(results[0], Pipeline(networks, ONCE)(video, mask))


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


@pytest.mark.slow
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
