"""A streaming run that is stopped goes on, and its result is that of a run in one go, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import ROOT
from support.videos import decoded

from experiments.launch.command_line import CommandLine
from experiments.launch.resume import CompleteError, resumed
from experiments.record.stream_state import STATE

RUN = [
    *("residency=streaming", "measure=none", "weights=seeded", "output.frames=true", "data.num_frames=14"),
    *("data.height=128", "data.width=132", "schedule.raft_iterations=1", "schedule.neighbor_length=4"),
    *("schedule.subvideo_length=5", "schedule.ref_stride=4"),
]


def start(cwd: Path, *arguments: str) -> subprocess.Popen:
    """Start run.py with narrow networks."""
    caches = {"PROPAINTER_BENCH_CACHE": str(cwd / "cache"), "TORCH_HOME": str(cwd)}
    environment = {**os.environ, **caches, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, str(ROOT / "tests" / "support" / "narrow.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def stopped(process: subprocess.Popen, folder: Path, number: signal.Signals, parts: int = 1) -> tuple[int, str, str]:
    """Send the signal once the state has been written that many times."""
    state = folder / STATE
    before = state.stat().st_ino if state.exists() else None
    until = time.monotonic() + 120
    while parts:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        now = state.stat().st_ino if state.exists() else None
        parts, before = parts - (now != before), now
        time.sleep(0.002)
    process.send_signal(number)
    return ended(process)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [folder / "inpainted.mp4", *sorted(folder.glob("frames/*.png"))]}


@pytest.mark.slow
def test_killed_three_times_and_resumed(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "a run"
    in_one_go = start(tmp_path, *RUN, f"hydra.run.dir={whole}")
    stopped(start(tmp_path, *RUN, f"hydra.run.dir='{folder}'"), folder, signal.SIGKILL)
    stopped(start(tmp_path, f"resume='{folder}'"), folder, signal.SIGKILL)
    assert len(decoded(folder / "inpainted.partial.mp4")) > 0
    code, _, err = ended(in_one_go)
    assert code == 0, err
    assert not (whole / STATE).exists()
    code, _, err = stopped(start(tmp_path, f"resume='{folder}'"), folder, signal.SIGTERM)
    assert code == 130
    assert f"python run.py 'resume='\"'\"'{folder}'\"'\"'' does the rest" in err
    code, out, err = ended(start(tmp_path, f"resume='{folder}'", "limits.host_gb=64"))
    assert code == 0, err
    assert "the run was stopped and resumed" in out
    assert content(folder) == content(whole)
    assert not (folder / STATE).exists()
    assert not (folder / "inpainted.partial.mp4").exists()

    record, expected = (json.loads((place / "record.json").read_text()) for place in (folder, whole))
    assert record["data"] == expected["data"]
    first_frames = record["run"]["resumed_from"]
    assert len(first_frames) == 3
    assert first_frames == sorted(set(first_frames))
    assert "resumed_from" not in expected["run"]
    assert record["latency"]["first_s"] is record["latency"]["end_to_end_s"] is None
    assert (folder / "run.log").read_text().count("the run goes on from frame") == 3

    with pytest.raises(CompleteError, match="is complete; nothing to do"):
        resumed(CommandLine.parse([f"resume='{folder}'"]))
