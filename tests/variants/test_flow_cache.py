"""Flows kept on disk: one key each, whole or absent, bounded, safe with several processes."""

import json
import os
import subprocess
import sys
import threading
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from support.command_line import ROOT
from support.flows import flows_of, noise, option

from propainter import InputError, Pipeline, Schedule
from propainter.models.raft import ClipFlow
from variants import UnsupportedError, flow_cache
from variants.correlation import all_pairs, on_demand
from variants.flow_cache import disk
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
    def test_in_effect_with_raft(self, networks, tmp_path):
        """Cold, then from disk: in the same run and in the next, bit-equal, with what the flow was made with."""
        frames, expected = noise(), flows_of(Pipeline(networks, QUICK), noise())

        def command() -> Pipeline:
            pipeline = option("correlation", "all_pairs")(Pipeline(networks, QUICK))
            pipeline = option("raft_scale", "half")(pipeline)
            return option("flow_cache", "disk", f"flow_cache.folder={tmp_path / 'flows'}")(pipeline)

        first, second = command(), command()
        flows = [flows_of(pipeline, frames) for pipeline in (first, first, second)]
        for pair in flows:
            assert all(torch.equal(got, wanted) for got, wanted in zip(pair, expected, strict=True))
        said, later = first.effective["flow_cache"], second.effective["flow_cache"]
        assert (said["hits"], said["misses"], said["kept"]) == (1, 1, 1)
        assert (later["hits"], later["misses"], later["cold_s"]) == (1, 0, None)
        assert said["cold_s"] > said["avoided_s"][0] == later["avoided_s"][0] > said["hit_s"][0] > 0
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
from propainter.io.atomic import DiskLRUCache
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

    def test_an_estimator_without_identity_is_refused(self, networks, cached):
        for estimator in (lambda frames, report: None, ClipFlow(networks.raft, correlation=lambda: None)):
            with pytest.raises(UnsupportedError, match="`identity`"):
                cached(estimator=estimator)
            with pytest.raises(UnsupportedError, match="`identity`"):
                cached(estimator=ScaledFlow(estimator, 1 / 2))

    def test_a_wrapped_network_is_refused(self, networks, tmp_path):
        """What a wrapped module computes is not told by its weights."""
        own = deepcopy(networks)
        own.raft.feature_encoder.forward = partial(own.raft.feature_encoder.forward)
        pipeline = disk(all_pairs(Pipeline(own, QUICK)), tmp_path)
        with pytest.raises(UnsupportedError, match="feature_encoder is wrapped"):
            flows_of(pipeline, noise())

    def test_a_bound_that_makes_no_sense(self, cached):
        with pytest.raises(InputError, match="max_gb is 0"):
            cached(max_gb=0)


class TestWholePipeline:
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
