"""Records, references and caches on disk: whole or absent, and read back as a table."""

import json

import numpy as np
import pytest
import torch
from support.command_line import ROOT
from support.configs import OPTIONS, composed

import analysis
from experiments.data import load, sample_clip
from experiments.errors import NonFiniteError, classify
from experiments.quality.array_cache import ArrayCache
from experiments.quality.reference import reference_frames, reference_key
from experiments.record.record import task_of, variant, write_record
from propainter import InputError, Pipeline, Schedule
from propainter.io.atomic import atomic_write
from variants import GROUPS, UnsupportedError

QUICK = Schedule(raft_iterations=1)


@pytest.fixture(scope="module")
def clip():
    return load(sample_clip(num_frames=2, height=128, width=128))


class TestRecord:
    def test_values_that_json_has_no_word_for_become_null(self, tmp_path):
        write_record(tmp_path / "record.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": None}})
        text = (tmp_path / "record.json").read_text()
        assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": {"d": None}}
        assert "NaN" not in text

    def test_an_error_while_writing_leaves_the_old_record(self, tmp_path):
        path = tmp_path / "record.json"
        write_record(path, {"schema": 1})
        with pytest.raises(TypeError):
            write_record(path, {"schema": object()})
        with pytest.raises(OSError, match="full"), atomic_write(path) as partial:
            partial.write_text("half")
            raise OSError("full")
        assert json.loads(path.read_text()) == {"schema": 1}
        assert list(tmp_path.iterdir()) == [path]

    def test_load_reads_runs_and_sweeps_and_leaves_out_what_is_none(self, tmp_path, caplog):
        for name, text in {
            "a": '{"schema": 1, "status": "ok", "latency": {"median_s": 2.5}, "effective": {}}',
            "b": '{"schema": 1, "status": "failed", "latency": null}',
            "damaged": '{"schema": 1, ',
            "foreign": "[1, 2]",
            "newer": '{"schema": 99}',
        }.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "record.json").write_text(text)
        table = analysis.load(tmp_path)
        assert table["status"].tolist() == ["ok", "failed"]
        assert table["latency.median_s"][0] == 2.5
        for name in ("damaged", "foreign", "newer"):
            assert f"{name}/record.json is left out" in caplog.text
        assert len(analysis.load(tmp_path / "a" / "record.json", tmp_path / "b")) == 2
        with pytest.raises(FileNotFoundError, match="nowhere"):
            analysis.load(tmp_path / "nowhere")


def described(*overrides):
    cfg = composed(*overrides)
    return variant(cfg, cfg.hydra.runtime.choices)


class TestVariant:
    def test_every_option_has_an_id_of_its_own(self):
        options = [(group, option) for group, option in OPTIONS if group in GROUPS]
        ids = [described(f"{group}={option}")["id"] for group, option in options]
        assert len({*ids}) == len(options) - len(GROUPS) + 1  # the published options are one variant together

    def test_ids_are_those_of_the_committed_baseline(self):
        for row in json.loads((ROOT / "baselines/amd-epyc/sample.json").read_text())["variants"]:
            groups = [f"{group}={row[f'variant.{group}']}" for group in GROUPS]
            assert described(*groups, "schedule.raft_iterations=4")["id"] == row["variant.id"]

    def test_where_a_cache_is_shapes_no_id_and_stands_among_the_options(self):
        here, there = (described("flow_cache=disk", f"cache.dir={folder}") for folder in ("here", "there"))
        assert here["id"] == there["id"]
        assert here["options"]["flow_cache"] == {"folder": "here/flows", "max_gb": 8}
        assert described("flow_cache=disk", "flow_cache.max_gb=1")["id"] != here["id"]


@pytest.mark.parametrize(
    ("experiment", "task", "function"),
    [
        (None, "inpaint", "experiments.inpaint.run"),
        ("matrix", "matrix", "experiments.matrix.run"),
        ("micro", "micro", "experiments.micro.run"),
        ("drift", "drift", "experiments.drift.run"),
        ("trust", "trust", "experiments.trust.run"),
        ("compile_report", "compile_report", "experiments.compile_report.run"),
        ("waterfall", "suite", "experiments.suite.waterfall"),
    ],
)
def test_records_name_a_task_as_ever(experiment, task, function):
    """By these, older records are found and older sweeps resumed."""
    assert task_of(composed(*([f"experiment={experiment}"] if experiment else [])).task._target_) == (task, function)
    assert task_of("mine.endings.run") == ("endings", "mine.endings.run")


@pytest.mark.parametrize(
    ("error", "status", "foreseen"),
    [
        (UnsupportedError("no such kernel here"), "unsupported", True),
        (NonFiniteError("stage flow gave"), "non_finite", True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out_of_memory", True),
        (MemoryError(), "out_of_memory", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory", True),
        (InputError("wrong"), "failed", True),
        (OSError(28, "No space left on device"), "failed", True),
        (RuntimeError("shapes"), "failed", False),
        (ZeroDivisionError("division by zero"), "failed", False),
    ],
)
def test_errors_become_statuses(error, status, foreseen):
    got = classify(error)
    assert (got[0], got[2]) == (status, foreseen)
    assert got[1]
    assert "\n" not in got[1]


class TestCache:
    def test_round_trip_and_damage(self, tmp_path, caplog):
        cache = ArrayCache(tmp_path / "deep" / "folder", max_bytes=10**6)
        assert cache.get("key") is None
        array = np.arange(12, dtype=np.uint8).reshape(3, 4)
        cache.put("key", array)
        assert np.array_equal(cache.get("key"), array)
        path = cache.path("key")
        path.write_bytes(path.read_bytes()[:-3])
        assert cache.get("key") is None
        assert "damaged" in caplog.text

    def test_the_least_recently_used_go_first(self, tmp_path):
        import os

        cache = ArrayCache(tmp_path, max_bytes=3500)
        for age, key in enumerate(("a", "b", "c")):
            cache.put(key, np.zeros(1000, np.uint8))
            os.utime(cache.path(key), (age, age))
        cache.get("a")
        cache.put("d", np.zeros(1000, np.uint8))
        assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]

    def test_the_newest_stays_even_if_too_large(self, tmp_path):
        cache = ArrayCache(tmp_path, max_bytes=10)
        cache.put("a", np.zeros(1000, np.uint8))
        assert cache.get("a") is not None


class TestReference:
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
            ("code_fingerprint", lambda *sources: "another code"),
            ("torch.get_num_threads", lambda: 77),
        ],
    )
    def test_the_key_covers_where_it_ran(self, clip, monkeypatch, name, value):
        before = reference_key(torch.device("cpu"), QUICK, clip, "a")
        monkeypatch.setattr(f"experiments.quality.reference.{name}", value)
        assert reference_key(torch.device("cpu"), QUICK, clip, "a") != before
