"""A run in a process of its own: how it ends, what is left of it, and limits on it. Tasks that run no network."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from support.command_line import ROOT
from support.processes import alive, gone

from experiments.launch import isolation as isolate
from experiments.launch.isolation import command, exit_reason, run_child, save_record, should_isolate
from experiments.launch.process import ProcessResult, last_lines, run_command
from experiments.system.memory_limits import apply_limits
from propainter import InputError

CPU = SimpleNamespace(type="cpu")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


class TestCommand:
    """`run_command`, with small Python programs."""

    def test_what_it_writes_is_kept(self, tmp_path, capfd):
        code = "import sys; print('out'); print('bar 1\\rbar 2', file=sys.stderr); sys.exit(7)"
        ended = run_command(python(code), tmp_path / "output.log")
        assert (ended.returncode, ended.timed_out) == (7, False)
        assert set(ended.last_lines.split(" | ")) == {"out", "bar 2"}
        assert (tmp_path / "output.log").read_text().startswith(f"process {ended.pid}: ")
        assert capfd.readouterr() == ("", "")

    def test_and_shown_if_asked_for(self, tmp_path, capsys):
        code = "import sys; print('out'); print('err', file=sys.stderr)"
        ended = run_command(python(code), tmp_path / "output.log", echo=True)
        assert capsys.readouterr() == ("out\n", "err\n")
        assert set(ended.last_lines.split(" | ")) == {"out", "err"}

    def test_one_that_hangs_is_ended_with_what_it_started(self, tmp_path, monkeypatch):
        """It does not listen to SIGTERM, and has a process of its own that does not either."""
        monkeypatch.setattr("experiments.launch.process.GRACE_S", 0.3)
        code = (
            "import signal, subprocess, time, os\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "other = subprocess.Popen(['sleep', '600'])\n"
            "print(other.pid, flush=True)\n"
            "time.sleep(600)"
        )
        ticks = []
        ended = run_command(python(code), tmp_path / "output.log", seconds=2, tick=lambda: ticks.append(1))
        assert (ended.returncode, ended.timed_out) == (-signal.SIGKILL, True)
        assert 2 <= ended.wall_s < 6
        assert ticks
        assert gone(ended.pid)
        assert gone(int(ended.last_lines))

    def test_what_it_leaves_running_is_ended(self, tmp_path):
        code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
        ended = run_command(python(code), tmp_path / "output.log")
        assert ended.returncode == 0
        assert gone(int(ended.last_lines))

    def test_an_error_here_ends_it(self, tmp_path):
        def interrupt():
            raise KeyboardInterrupt

        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run_command(python("import time; time.sleep(600)"), tmp_path / "output.log", tick=interrupt)
        assert time.monotonic() - start < 10
        pid = int((tmp_path / "output.log").read_text().split(":")[0].removeprefix("process "))
        assert gone(pid)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: its kernel signals a child whose parent has gone")
    def test_a_child_goes_with_the_process_that_started_it(self, tmp_path):
        child = "from experiments.launch.process import *; import time; die_with_parent(); print('ready', flush=True); "
        child += "time.sleep(600)"
        parent = (
            "import sys; from pathlib import Path; from experiments.launch.process import run_command; "
            f"run_command([sys.executable, '-c', {child!r}], Path({str(tmp_path / 'output.log')!r}))"
        )
        process = subprocess.Popen(python(parent), cwd=ROOT)
        while "ready" not in last_lines(tmp_path / "output.log"):
            assert process.poll() is None
            time.sleep(0.05)
        pid = int((tmp_path / "output.log").read_text().split(":")[0].removeprefix("process "))
        assert alive(pid)
        process.kill()
        process.wait()
        assert gone(pid)

    @pytest.mark.parametrize("code", [0, 3])
    def test_leaves_with_all_that_is_to_be_done_at_the_exit(self, tmp_path, code):
        told = f"""
            import atexit, threading, time
            from concurrent.futures import ThreadPoolExecutor
            from experiments.launch.process import fast_exit
            leave = fast_exit()
            class Torn:
                def __del__(self): print("taken apart")
            kept = Torn()
            atexit.register(print, "registered")
            def late(): time.sleep(0.2); print("thread")
            threading.Thread(target=late).start()
            print("written", end=" ")
            pool = ThreadPoolExecutor()  # nobody shuts it down but Python, as torch's compiler leaves its own
            pool.submit(print, "pooled", end=" ").result()
            leave({code})
        """
        done = subprocess.run(python(textwrap.dedent(told)), capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (code, "written pooled thread\nregistered\n", "")

    def test_the_stack_is_asked_for_by_the_user_alone(self, tmp_path, monkeypatch):
        """In this process it is set for Hydra's sake while a sweep runs."""
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.setattr("experiments.launch.process._ASKED_FOR_STACKS", None)
        code = "import os; print(os.environ.get('HYDRA_FULL_ERROR'))"
        assert run_command(python(code), tmp_path / "output.log").last_lines == "None"


class TestLastLines:
    def test_of_much_and_of_nothing(self, tmp_path):
        path = tmp_path / "output.log"
        assert last_lines(path) == ""
        path.write_text("process 1: the command\n")
        assert last_lines(path) == ""
        path.write_text("process 1: the command\n" + "".join(f"\x1b[31mline {n}\x1b[0m\n\n" for n in range(5000)))
        assert last_lines(path) == "line 4997 | line 4998 | line 4999"
        assert last_lines(path, count=1, length=4) == "4999"


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
        assert typed[2:6] == [str(ROOT / "run.py"), "--config-dir=/mine", "attention=sdpa", "repeat=2"]
        assert typed[-4:] == ["hydra.mode=RUN", typed[-3], "isolate=false", "resume=null"]
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert OverridesParser.create().parse_override(typed[-3]).value() == str(folder)

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
        monkeypatch.setattr(isolate, "write_record", self.full)
        kept = save_record(tmp_path / "record.json", {"status": "ok"})
        assert kept["status"] == "failed"
        assert "No space left" in kept["reason"]
        assert "free some space" in caplog.text
        assert list(tmp_path.iterdir()) == []

    def test_what_the_run_itself_wrote_stays(self, tmp_path, monkeypatch, caplog):
        path = tmp_path / "record.json"
        path.write_text('{"status": "ok"}')
        monkeypatch.setattr(isolate, "write_record", self.full)
        assert save_record(path, {"status": "ok"}, is_there=True)["status"] == "ok"
        assert path.read_text() == '{"status": "ok"}'


def limited(**limits):
    return OmegaConf.create({"limits": {"vram_gb": None, "host_gb": None, **limits}})


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "named"),
        [
            ({"vram_gb": 8}, "limits.vram_gb needs CUDA"),
            ({"host_gb": "much"}, "limits.host_gb is 'much'"),
            ({"host_gb": 0}, "limits.host_gb is 0"),
            ({"vram_gb": True}, "limits.vram_gb is True"),
        ],
    )
    def test_that_cannot_be_kept(self, limits, named):
        with pytest.raises(InputError, match=named):
            apply_limits(limited(**limits), CPU)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: its limit on a process's data")
    def test_on_the_host(self):
        """Torch's allocation, numpy's and Python's own fail, as out of memory; without the limit they don't."""
        code = (
            "import numpy, torch\n"
            "from tests_limits import limited, CPU, apply_limits, InputError\n"
            "from propainter.errors import is_out_of_memory\n"
            "try:\n    apply_limits(limited(host_gb=0.01), CPU)\nexcept InputError as error:\n    print(error)\n"
            "print(apply_limits(limited(host_gb=3), CPU))\n"
            "for allocate in (lambda n: torch.empty(n, dtype=torch.uint8), numpy.empty, bytearray):\n"
            "    allocate(2**26)\n"
            "    try:\n        allocate(2**32)\n"
            "    except Exception as error:\n        print(is_out_of_memory(error))\n"
            "print(apply_limits(limited(), CPU))\n"
            "print(numpy.empty(2**32, numpy.uint8).size)\n"
        ).replace("tests_limits", "test_isolation")
        paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])}
        done = subprocess.run(python(code), capture_output=True, text=True, env={**os.environ, **paths})
        lines = done.stdout.splitlines()
        assert "the process has" in lines[0], done.stderr
        assert lines[1:] == [str(3 * 2**30), "True", "True", "True", "None", str(2**32)]


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
