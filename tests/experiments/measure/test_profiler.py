"""Artifacts: each from a run of its own, whole or not at all, or the reason why there is none."""

import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.measure import profiler as artifacts
from experiments.measure.profiler import ARTIFACTS, check_artifacts, make_artifacts
from propainter import InputError, Observer


class Small:
    """Two stages of matrix products in place of a pipeline; counts its runs."""

    def __init__(self, device="cpu", error=None):
        self.networks, self.effective = SimpleNamespace(device=torch.device(device)), {}
        self.observer = Observer()
        self.runs = 0
        self.error = error

    def __call__(self, size):
        self.runs += 1
        for name in ("flow", "generation"):
            with self.observer.stage(name):
                for _ in range(5):
                    multiply_matrices(size)
        if self.error:
            raise self.error


def multiply_matrices(size):
    return torch.randn(size, size) @ torch.randn(size, size)


class TestNames:
    def test_known_ones_once_each(self):
        assert check_artifacts(["trace", "flame", "trace"]) == ("trace", "flame")
        assert check_artifacts([]) == ()

    @pytest.mark.parametrize("names", [["trace", "flames"], "trace"])
    def test_others_are_refused_in_a_sentence(self, names):
        with pytest.raises(InputError, match=r"measure\.artifacts .*; give "):
            check_artifacts(names)

    def test_nothing_is_run_for_an_unknown_one(self, tmp_path):
        pipeline = Small()
        with pytest.raises(InputError):
            make_artifacts(["trace", "flames"], pipeline, [8], tmp_path)
        assert pipeline.runs == 0


class TestFiles:
    def test_trace_names_stages_and_operations(self, tmp_path):
        pipeline = Small()
        before = pipeline.observer
        assert make_artifacts(["trace"], pipeline, [8], tmp_path) == {"trace": "trace.json.gz"}
        assert pipeline.runs == 1 and pipeline.observer is before
        with gzip.open(tmp_path / "trace.json.gz", "rt") as file:
            names = {event.get("name") for event in json.load(file)["traceEvents"]}
        assert {"flow", "generation", "aten::mm"} <= names

    def test_flame_has_stacks_down_to_the_operation(self, tmp_path):
        assert make_artifacts(["flame"], Small(), [200], tmp_path) == {"flame": "flame.txt"}
        lines = (tmp_path / "flame.txt").read_text().splitlines()
        assert all(re.fullmatch(r"\S+ \d+", line) for line in lines)
        assert any("multiply_matrices" in line and line.rsplit(" ", 1)[0].endswith("aten::mm") for line in lines)

    def test_no_memory_snapshot_on_a_cpu(self, tmp_path, caplog):
        pipeline = Small()
        made = make_artifacts(["memory_snapshot"], pipeline, [8], tmp_path)
        assert "CUDA" in made["memory_snapshot"]["reason"] and "no memory_snapshot" in caplog.text
        assert pipeline.runs == 0 and not list(tmp_path.iterdir())

    def test_memory_snapshot_on_a_gpu(self, tmp_path, monkeypatch):
        calls = []
        memory = torch.cuda.memory
        monkeypatch.setattr(memory, "_record_memory_history", lambda **options: calls.append(options))
        monkeypatch.setattr(memory, "_dump_snapshot", lambda name: Path(name).write_text("history"))
        pipeline = Small("cuda")
        assert make_artifacts(["memory_snapshot"], pipeline, [8], tmp_path) == {
            "memory_snapshot": "memory_snapshot.pickle"
        }
        assert (tmp_path / "memory_snapshot.pickle").read_text() == "history"
        assert pipeline.runs == 1 and calls[-1] == {"enabled": None}


def test_graphs_are_recorded_before_a_trace(tmp_path):
    pipeline = Small()
    pipeline.effective["cuda_graphs"] = {}
    make_artifacts(["trace"], pipeline, [8], tmp_path)
    assert pipeline.runs == 2


class TestFailure:
    @pytest.mark.parametrize("name", ARTIFACTS)
    def test_out_of_memory_is_a_reason(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **options: None)
        monkeypatch.setattr(artifacts, "_activities", lambda pipeline: [torch.profiler.ProfilerActivity.CPU])
        pipeline = Small("cuda", error=torch.OutOfMemoryError("CUDA out of memory"))
        made = make_artifacts([name], pipeline, [8], tmp_path)
        assert "out of memory" in made[name]["reason"] and not list(tmp_path.iterdir())

    def test_a_full_disk_leaves_nothing_half_written(self, tmp_path, monkeypatch):
        def export(profiler, path):
            Path(path).write_text("half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", export)
        with pytest.raises(OSError, match="No space"):
            make_artifacts(["trace"], Small(), [8], tmp_path)
        assert not list(tmp_path.iterdir())

    def test_another_error_is_not_hidden(self, tmp_path):
        pipeline = Small(error=RuntimeError("wrong shape"))
        before = pipeline.observer
        with pytest.raises(RuntimeError, match="wrong shape"):
            make_artifacts(["trace"], pipeline, [8], tmp_path)
        assert pipeline.observer is before
