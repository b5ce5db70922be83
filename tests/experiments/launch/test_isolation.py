"""A run in a process of its own: how it ends, what is left of it, and limits on it. Tasks that run no network."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from support.command_line import ROOT

from experiments.launch import isolation as isolate
from experiments.launch.isolation import command, exit_reason, run_child, save_record, should_isolate
from experiments.launch.process import ProcessResult
from propainter import InputError

CPU = SimpleNamespace(type="cpu")


class TestHowItEnded:
    @pytest.mark.parametrize(
        ("code", "timed_out", "wrote", "status", "named"),
        [
            (
                -9,
                False,
                "stage flow",
                "failed",
                "signal 9 (SIGKILL), as the system does when memory runs out; its last",
            ),
            (-11, False, "", "failed", "signal 11 (SIGSEGV); it had written nothing"),
            (-6, False, "what():  std::bad_alloc", "out_of_memory", "std::bad_alloc"),
            (1, False, "MemoryError", "out_of_memory", "MemoryError"),
            (1, False, "ValueError: no", "failed", "exit code 1 and left no record; its last lines: ValueError: no"),
            (3, False, "", "unsupported", "no record"),
            (-15, True, "stage flow", "timed_out", "longer than 2.5 s (limits.run_seconds)"),
        ],
    )
    def test_is_said_in_a_sentence(self, code, timed_out, wrote, status, named):
        got, reason = exit_reason(ProcessResult(1, code, 3.0, timed_out, wrote), 2.5)
        assert got == status
        assert named in reason
        assert wrote in reason

    def test_well_without_a_record(self):
        assert exit_reason(ProcessResult(1, 0, 3.0, False, "MemoryError"), None) == ("ok", None)


class TestWhatIsTyped:
    def test_for_a_child(self, tmp_path):
        folder = tmp_path / "it's a = folder"
        hydra = ["hydra.verbose=true", "--config-dir=/mine"]
        typed = command(["attention=sdpa", "isolate=true", "+resume=x", "repeat=2"], folder, hydra)
        assert typed[2:6] == [str(ROOT / "experiments"), "--config-dir=/mine", "attention=sdpa", "repeat=2"]
        assert typed[-4:] == ["hydra.mode=RUN", typed[-3], "isolate=false", "resume=null"]
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert OverridesParser.create().parse_override(typed[-3]).value() == str(folder)
        again = command(["attention=sdpa"], folder, hydra, resume=True)[-1]
        assert OverridesParser.create().parse_override(again).value() == str(folder)

    @pytest.mark.parametrize(
        ("isolate", "seconds", "sweep", "expected"),
        [
            ("auto", None, False, False),
            ("auto", None, True, True),
            ("auto", 5, False, True),
            (True, None, False, True),
            (False, None, True, False),
        ],
    )
    def test_when_there_is_one(self, isolate, seconds, sweep, expected):
        cfg = OmegaConf.create({"isolate": isolate, "limits": {"run_seconds": seconds}})
        assert should_isolate(cfg, sweep) is expected

    @pytest.mark.parametrize(
        ("isolate", "seconds", "named"),
        [
            ("maybe", None, "isolate is 'maybe'"),
            (1, None, "isolate is 1"),
            ("auto", "long", "limits.run_seconds is 'long'"),
            ("auto", 0, "limits.run_seconds is 0"),
            (False, 5, "leave out isolate=false"),
        ],
    )
    def test_wrong_settings(self, isolate, seconds, named):
        cfg = OmegaConf.create({"isolate": isolate, "limits": {"run_seconds": seconds}})
        with pytest.raises(InputError, match=named):
            should_isolate(cfg, True)


class TestRecordOnAFullDisk:
    def full(self, *_):
        raise OSError(28, "No space left on device")

    def test_nothing_half_written_and_a_sentence(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(isolate, "write_json", self.full)
        kept = save_record(tmp_path / "record.json", {"status": "ok"})
        assert kept["status"] == "failed"
        assert "No space left" in kept["reason"]
        assert "free some space" in caplog.text
        assert list(tmp_path.iterdir()) == []

    def test_what_the_run_itself_wrote_stays(self, tmp_path, monkeypatch, caplog):
        path = tmp_path / "record.json"
        path.write_text('{"status": "ok"}')
        monkeypatch.setattr(isolate, "write_json", self.full)
        assert save_record(path, {"status": "ok"}, is_there=True)["status"] == "ok"
        assert path.read_text() == '{"status": "ok"}'


@pytest.mark.parametrize(("error", "warned"), [(InputError("no such option"), False), (KeyError("variant"), True)])
def test_a_section_that_no_config_explains_is_a_warning(monkeypatch, caplog, error, warned):
    def fail(cfg):
        raise error

    monkeypatch.setattr(isolate, "variant", fail)
    monkeypatch.setattr(isolate, "run_section", lambda cfg: {"id": "0"})
    assert isolate.describe(OmegaConf.create()) == {"run": {"id": "0"}, "variant": None}
    assert ("no variant in the record: KeyError" in caplog.text) is warned


@pytest.mark.slow
def test_without_hydra_here(tmp_path):
    """`run_child` as a suite calls it: a child that refuses its settings says so in a record of its own."""
    overrides = ["device=quantum", "attention=sdpa", "weights=seeded"]
    record = run_child(overrides, tmp_path / "run", run_seconds=120)
    assert record["status"] == "failed"
    assert "device is 'quantum'" in record["reason"]
    assert (record["run"]["isolated"], record["variant"]["attention"]) == (True, "sdpa")
    assert record["run"]["command"] == "python run.py device=quantum attention=sdpa weights=seeded"
    assert record == json.loads((tmp_path / "run" / "record.json").read_text())

    # One that could not even begin: its record is written here, with what is known of it.
    record = run_child(overrides, tmp_path / "run", run_seconds=0.05)
    assert record["status"] == "timed_out"
    assert record["variant"]["attention"] == "sdpa"
    assert record["run"]["command"] == "python run.py device=quantum attention=sdpa weights=seeded"
    assert record["run"]["id"]


def test_the_process_of_a_sweep_does_not_wait_for_torch():
    told = "import sys, experiments.launch.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_a_child_runs_the_code_of_its_own_checkout(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise SystemExit('another checkout')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments"), "--version"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
