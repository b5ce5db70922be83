"""One command line in this process: its exit code, what it prints, and nothing left behind in the process."""

import os
import sys

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments.launch.cli import exit_code, run
from experiments.record.stream_state import STATE, StreamState
from propainter.inference.streaming import Checkpoint


@pytest.mark.parametrize(
    ("statuses", "sweep", "code"),
    [
        ([], False, 0),
        (["ok"], False, 0),
        (["unsupported"], False, 3),
        (["out_of_memory"], False, 1),
        (["ok", "unsupported", "out_of_memory"], True, 0),
        (["ok", "failed"], True, 1),
    ],
)
def test_exit_code(statuses, sweep, code):
    assert exit_code(statuses, sweep) == code


@pytest.mark.slow
def test_overrides_and_flags_in_any_order(capsys, tmp_path):
    """README's way to add a variant: an override, -m, another override."""
    (tmp_path / "conf" / "attention").mkdir(parents=True)
    (tmp_path / "conf" / "attention" / "relu.yaml").write_text("_target_: mine.kernels.relu\n_partial_: true\n")
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    assert run([search, "--cfg", "job", "attention=relu"]) == 0
    assert "_target_: mine.kernels.relu" in capsys.readouterr().out
    for flags in (["-m"], ["--multirun"]):
        where = f"hydra.sweep.dir={tmp_path}/sweep"
        assert run([search, where, *flags, "attention=manual,relu", "isolate=maybe", "report=false"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[1:3]] == ["1/2", "2/2"]
        assert lines[2].split()[1].startswith("attention=relu#")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["attention=quick"], 2, "sdpa_flash"),
        (["no_such_key=3"], 2, "no_such_key"),
        (["-m", "attention=quick,sdpa"], 2, "sdpa_flash"),
        (["-m", "data.frames=/a (1)/b=c"], 2, "two pairs of quotes"),
        (["resume=/nowhere"], 1, "/nowhere, which is not there"),
        (["preset=fast", "-m", "device=cpu,cuda"], 2, "one device at a time"),
    ],
)
def test_bad_input_is_a_sentence(capsys, arguments, code, named):
    before = dict(os.environ), list(sys.argv)
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert named in err
    assert "Traceback" not in err
    assert out == ""
    assert (dict(os.environ), sys.argv) == before
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.slow
def test_a_refused_resume_does_not_say_that_it_does_the_rest(capfd, tmp_path):
    started_with = ["residency=streaming", "measure=none", "weights=seeded", "device=cpu"]
    checkpoint = Checkpoint(windows=1, needed=3, finished=2, unfinished=np.zeros((0, 128, 128, 3), np.uint8))
    StreamState(2, checkpoint, started_with, {}, {}, "hash", ()).save(tmp_path)
    assert run([f"resume={tmp_path}", "measure=quick"]) == 1
    out, err = capfd.readouterr()
    assert "a run that was stopped goes on with measure=none" in out + err
    assert "does the rest" not in out + err
    assert (tmp_path / STATE).exists()
