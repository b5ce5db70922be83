"""The reference is computed once, by one process, and in a way that saves memory where it does not fit."""

import copy
import logging
import threading
import time

import numpy as np
import pytest
import torch

from experiments.data import load, sample_clip
from experiments.errors import NonFiniteError
from experiments.quality import reference as module
from experiments.quality.array_cache import ArrayCache
from experiments.quality.reference import reference_frames, reference_key
from propainter import Pipeline, Schedule
from variants import precision

QUICK = Schedule(raft_iterations=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip():
    return load(sample_clip(2, 128, 128))


@pytest.fixture
def cache(tmp_path):
    return ArrayCache(tmp_path / "cache", 10**9)


@pytest.fixture
def computed(monkeypatch, clip):
    """A quick stand-in for the computation; the ways that were gone. Those in `computed.too_large` do not fit."""

    class Computed(list):
        too_large = ()
        seconds = 0.0

        def __call__(self, way, make_networks, schedule, clip):
            self.append((way.name, way.device.type))
            time.sleep(self.seconds)
            if self[-1] in self.too_large:
                raise torch.OutOfMemoryError("too large")
            return np.full_like(clip.frames, len(self))

    stand_in = Computed()
    monkeypatch.setattr(module, "_compute", stand_in)
    return stand_in


def never():
    raise AssertionError("networks are made by the computation only")


@pytest.mark.slow
def test_the_reference_is_the_published_pipeline_and_then_comes_from_the_cache(networks, clip, cache):
    wanted = precision.fp32(Pipeline(networks, QUICK))(clip.frames, clip.masks)
    first = reference_frames(lambda: networks, CPU, QUICK, clip, "weights", cache)
    again = reference_frames(never, CPU, QUICK, clip, "weights", cache)
    assert np.array_equal(first.frames, wanted) and np.array_equal(again.frames, wanted)
    assert (first.cached, again.cached, first.memory_saving, again.memory_saving) == (False, True, False, False)
    assert first.key == again.key


@pytest.mark.slow
def test_out_of_memory_it_is_computed_the_memory_saving_way(networks, clip, cache, monkeypatch):
    published = reference_frames(lambda: networks, CPU, QUICK, clip, "weights", cache)
    compute, ran = module._compute, []

    def tight(way, *rest):
        if way.name == "published":
            raise MemoryError
        ran.append(way)
        return compute(way, *rest)

    monkeypatch.setattr(module, "_compute", tight)
    saving = reference_frames(lambda: networks, CPU, QUICK, clip, "other weights", cache)
    assert (saving.memory_saving, saving.cached) == (True, False)
    assert len(ran) == 1 and saving.key != published.key
    assert np.abs(saving.frames.astype(int) - published.frames).max() <= 1
    assert reference_frames(never, CPU, QUICK, clip, "other weights", cache).memory_saving
    assert len(ran) == 1


@pytest.mark.slow
def test_the_cpu_is_the_last_resort(clip, cache, computed, monkeypatch):
    monkeypatch.setattr(module, "device_name", str)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    computed.too_large = [("published", "cuda"), ("memory_saving", "cuda")]
    got = reference_frames(never, torch.device("cuda"), QUICK, clip, "weights", cache)
    assert computed == [("published", "cuda"), ("memory_saving", "cuda"), ("memory_saving", "cpu")]
    assert got.memory_saving
    computed.too_large.append(("memory_saving", "cpu"))
    with pytest.raises(torch.OutOfMemoryError):
        reference_frames(never, torch.device("cuda"), QUICK, clip, "others", cache)


@pytest.mark.slow
def test_two_that_need_it_at_once_compute_it_once(clip, cache, computed, caplog):
    caplog.set_level(logging.INFO)
    computed.seconds = 0.5
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(reference_frames(never, CPU, QUICK, clip, "weights", cache)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1
    assert sorted(one.cached for one in got) == [False, True, True]
    assert "another process is computing the same reference; waiting for it" in caplog.text
    reference_frames(never, CPU, Schedule(raft_iterations=2), clip, "weights", cache)
    assert len(computed) == 2


def test_a_folder_that_cannot_be_written_is_no_obstacle(clip, tmp_path, computed, caplog):
    (tmp_path / "file").touch()
    got = reference_frames(never, CPU, QUICK, clip, "weights", ArrayCache(tmp_path / "file" / "cache", 10**9))
    assert not got.cached and len(computed) == 1
    assert "can't hold a lock" in caplog.text and "could not be kept" in caplog.text


@pytest.mark.slow
def test_a_reference_that_is_not_finite_is_an_error_and_is_not_kept(networks, clip, cache):
    broken = copy.deepcopy(networks)
    broken.generator.decoder[6].bias.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="prediction of stage generation"):
        reference_frames(lambda: broken, CPU, QUICK, clip, "weights", cache)
    assert not list(cache.folder.glob("*.npy"))


@pytest.mark.parametrize("changed", ["schedule", "weights", "threads", "device", "code", "torch"])
def test_the_key_covers_all_that_shapes_it(clip, monkeypatch, changed):
    before = module.reference_key(CPU, QUICK, clip, "weights")
    assert before == module.reference_key(CPU, QUICK, clip, "weights")
    if changed == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    elif changed == "device":
        monkeypatch.setattr(module, "device_name", lambda device: "another")
    elif changed == "code":
        monkeypatch.setattr(module, "source_fingerprint", lambda *sources: "another")
    elif changed == "torch":
        monkeypatch.setattr(module, "version", lambda package: "0" if package == "torch" else "1")
    schedule = Schedule() if changed == "schedule" else QUICK
    assert module.reference_key(CPU, schedule, clip, "others" if changed == "weights" else "weights") != before


class TestCached:
    @pytest.mark.slow
    def test_computed_once(self, networks, clip, tmp_path):
        cache = ArrayCache(tmp_path, max_bytes=10**9)
        made = []

        def make():
            made.append(1)
            return networks

        frames = [reference_frames(make, networks.device, QUICK, clip, "weights", cache).frames for _ in range(2)]
        assert len(made) == 1
        assert np.array_equal(*frames)
        assert np.array_equal(frames[0], Pipeline(networks, QUICK)(clip.frames, clip.masks))

    @pytest.mark.slow
    def test_a_cache_that_cannot_be_written_is_no_obstacle(self, networks, clip, tmp_path, caplog):
        (tmp_path / "file").touch()
        cache = ArrayCache(tmp_path / "file" / "folder", max_bytes=10**9)
        frames = reference_frames(lambda: networks, networks.device, QUICK, clip, "weights", cache).frames
        assert frames.shape == clip.frames.shape
        assert "could not be kept" in caplog.text

    def test_the_key_covers_data_weights_schedule_and_device(self, clip):
        other = load(sample_clip(num_frames=3, height=128, width=128))
        keys = {
            reference_key(torch.device("cpu"), schedule, data, weights)
            for schedule in (Schedule(), QUICK)
            for data in (clip, other)
            for weights in ("a", "b")
        }
        assert len(keys) == 8

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("device_name", lambda device: "another device"),
            ("version", lambda package: "0.0"),
            ("source_fingerprint", lambda *sources: "another code"),
            ("torch.get_num_threads", lambda: 77),
        ],
    )
    def test_the_key_covers_where_it_ran(self, clip, monkeypatch, name, value):
        before = reference_key(torch.device("cpu"), QUICK, clip, "a")
        monkeypatch.setattr(f"experiments.quality.reference.{name}", value)
        assert reference_key(torch.device("cpu"), QUICK, clip, "a") != before
