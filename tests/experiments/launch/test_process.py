"""Processes that are watched, ended with all that they started, and gone with their parent: small Python programs."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest
from support.command_line import ROOT
from support.processes import alive, gone

from experiments.launch.process import last_lines, run_command


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


class TestCommand:
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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
