"""One timed run at a time: a second process waits, and says so."""

import subprocess
import sys
import time

import torch
from support.command_line import ROOT

from experiments.system.device_lock import FOLDER, device_lock

HOLDER = """
import sys, time, torch
from experiments.system.device_lock import device_lock
with device_lock(torch.device("cpu")):
    print("held", flush=True)
    sys.stdin.read()
"""

CPU = torch.device("cpu")


def test_a_second_process_waits(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        closing = subprocess.Popen(["sh", "-c", "sleep 0.5"])
        # The holder ends once its input does, half a second from now.
        import threading

        threading.Thread(target=lambda: (closing.wait(), holder.stdin.close())).start()
        with device_lock(CPU):
            waited = time.monotonic() - begun
    assert waited >= 0.4
    assert "waiting for cpu, on which another run is timed" in caplog.text


def test_a_holder_that_is_killed_holds_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    with device_lock(CPU):
        assert not caplog.text


def test_without_a_folder_to_write_to_it_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
    with device_lock(CPU):
        pass
    assert "no lock on cpu, where another run may be timed at once" in caplog.text
