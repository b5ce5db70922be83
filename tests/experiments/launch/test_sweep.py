"""A sweep's parts: how many runs there are, a run in a line, and the end."""

import json
import subprocess

import pandas as pd
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from support.command_line import ROOT

from experiments.launch import sweep as sweeps
from experiments.launch.plan import count_runs
from experiments.launch.sweep import make_report, progress_line


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        (["attention=manual,sdpa", "repeat=range(3)", "precision=amp"], 6),
        (["attention=glob(sdpa*)"], len(list((ROOT / "conf" / "attention").glob("sdpa*.yaml")))),
        (["data.num_frames=2,3", "data.num_frames=2,3,4"], 3),
        ([], 1),
    ],
)
def test_number_of_runs(arguments, runs):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        config = GlobalHydra.instance().config_loader().load_configuration("config", arguments, RunMode.MULTIRUN)
        assert count_runs(config) == runs
        config.hydra.sweeper.params = {"measure": "quick,standard"}
        assert count_runs(config) == 2 * runs
        config.hydra.sweeper = {"_target_": "elsewhere.Optuna"}
        assert count_runs(config) is None


RECORD = {
    "status": "ok",
    "reason": None,
    "run": {"repeat": 2},
    "variant": {"id": "attention=sdpa#1a2b3c4d"},
    "latency": {"median_s": 7.712, "ci95_s": [7.41, 8.04]},
    "memory": {"peak_bytes": 352 * 2**20},
    "quality": {"psnr_hole_db": 85.14},
}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"effective": {"kernels": {"warp": "torch, since Triton's failed: no image"}}},
            "attention=sdpa#1a2b3c4d repeat 2  ok  7.71 s [7.41, 8.04]  352 MiB  85.1 dB  "
            "fell back: kernels.warp, torch, since Triton's failed: no image",
        ),
        ({}, "attention=sdpa#1a2b3c4d repeat 2  ok  7.71 s [7.41, 8.04]  352 MiB  85.1 dB"),
        ({"quality": {"psnr_hole_db": None}},
         "attention=sdpa#1a2b3c4d repeat 2  ok  7.71 s [7.41, 8.04]  352 MiB  identical"),
        ({"latency": {"median_s": None, "ci95_s": None, "first_s": 9.0}, "run": {}, "quality": None, "memory": None},
         "attention=sdpa#1a2b3c4d  ok  9 s once"),
        ({"throughput": {"frames_per_s": 5.912, "clips": 10}, "latency": {"median_s": None, "first_s": 9.0}},
         "attention=sdpa#1a2b3c4d repeat 2  ok  5.91 frames/s over 10 clips  352 MiB  85.1 dB"),
        ({"latency": {"median_s": 0.5}, "run": {}, "quality": None, "memory": None},
         "attention=sdpa#1a2b3c4d  ok  0.5 s"),
        ({"status": "failed", "reason": "no", "variant": None, "run": {"command": "python run.py"}, "latency": None,
          "memory": None, "quality": None}, "python run.py  failed  no"),
        ({"speedup": {"median": 1.3, "ci95": [1.25, 1.36]}, "disturbed": []},
         "attention=sdpa#1a2b3c4d repeat 2  ok  7.71 s [7.41, 8.04]  1.30x [1.25, 1.36]  352 MiB  85.1 dB"),
        ({"speedup": {"median": 1.3, "ci95": None}},
         "attention=sdpa#1a2b3c4d repeat 2  ok  7.71 s [7.41, 8.04]  352 MiB  85.1 dB"),
        ({"speedup": {"median": 1.3, "ci95": [1.25, 1.36]}, "disturbed": ["load 3.0", "heat"]},
         "attention=sdpa#1a2b3c4d repeat 2  ok  7.71 s [7.41, 8.04]  352 MiB  85.1 dB  "
         "DISTURBED, its times are doubtful: load 3.0"),
    ],
)  # fmt: skip
def test_a_run_in_a_line(changed, line):
    assert progress_line({**RECORD, **changed}) == line


class TestReport:
    def test_is_made_by_the_analysis(self, tmp_path, monkeypatch, capsys):
        commands = []

        def made(command, **_):
            commands.append(command)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(sweeps.subprocess, "run", made)
        assert make_report(tmp_path) is True
        assert commands[0][1:] == ["-m", "analysis", "report", str(tmp_path), "-o", str(tmp_path / "report.html")]
        assert "report.html" in capsys.readouterr().out

    def test_what_goes_wrong_is_said(self, tmp_path, monkeypatch, capsys):
        ended = subprocess.CompletedProcess([], 1, "", "Traceback\n  File x\nValueError: no records\n")
        monkeypatch.setattr(sweeps.subprocess, "run", lambda *_, **__: ended)
        assert make_report(tmp_path) is False
        err = capsys.readouterr().err
        assert "ValueError: no records" in err
        assert len(err.splitlines()) == 1

    @pytest.mark.parametrize(("task", "reports"), [("inpaint", 1), ("matrix", 0)])
    def test_is_of_inpainting(self, tmp_path, monkeypatch, task, reports):
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "record.json").write_text(json.dumps({"schema": 2, "status": "ok", "run": {"task": task}}))
        made = []
        monkeypatch.setattr(sweeps, "make_report", lambda folder: made.append(folder) or True)
        assert sweeps.finish(tmp_path, report=True) is True
        assert made == [tmp_path] * reports
        assert sweeps.finish(tmp_path, report=False) is True
        assert len(made) == reports
        assert pd.read_parquet(tmp_path / "records.parquet")["run.task"].tolist() == [task]

    def test_a_full_disk_at_the_table(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "record.json").write_text("{}")

        def full(folder):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(sweeps, "write_table", full)
        assert sweeps.finish(tmp_path, report=True) is False
        assert "No space left" in capsys.readouterr().err
