"""`resume=FOLDER`: what a folder goes on with, and which folders do not."""

import json

import pytest

from experiments.launch.command_line import CommandLine
from experiments.launch.resume import PreviousSweep, resumed
from propainter import InputError


def resume(*arguments: str) -> list[str]:
    return resumed(CommandLine.parse(arguments)).arguments()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a sweep" / "0").mkdir(parents=True)
    (tmp_path / "a sweep" / "multirun.yaml").touch()
    return tmp_path / "a sweep"


def test_a_sweep_goes_on_in_its_folder(folder):
    arguments = ["--multirun", f"resume='{folder}'", "attention=manual,sdpa"]
    expected = [f"hydra.sweep.dir='{folder}'", "hydra.sweep.subdir=.resumed/${hydra.job.num}"]
    assert resume(*arguments) == [*arguments, *expected]
    assert resume(*arguments, f"hydra.sweep.dir='{folder}'") == [*arguments, *expected]


@pytest.mark.parametrize("arguments", [["attention=sdpa"], ["--multirun", "resume=null"], ["--help"]])
def test_a_line_without_resume_is_left_as_it_is(arguments):
    assert resume(*arguments) == arguments


def test_what_cannot_go_on(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, more, named in (
        ("nowhere", [], "which is no folder"),
        ("empty", [], "holds no sweep"),
        ("'a sweep'", ["hydra.sweep.dir=elsewhere"], "two folders"),
    ):
        path = f"'{tmp_path}/{name}'" if "'" not in name else f"'{folder}'"
        with pytest.raises(InputError, match=named):
            resume(f"resume={path}", *more)


def test_is_for_sweeps(bench, folder):
    done = bench(f"resume='{folder}'", f"hydra.run.dir={folder.parent}/run")
    assert done.code == 1
    assert "this is no sweep; add -m" in done.err


def test_what_an_earlier_sweep_has(tmp_path):
    statuses = {"0": "ok", "1": "failed", "3": "timed_out", "4": "non_finite"}
    for name, status in statuses.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps({"status": status, "run": {"id": f"id {name}"}}))
    (tmp_path / "2").mkdir()  # interrupted: no record
    earlier = PreviousSweep(tmp_path)
    assert list(earlier.results) == ["id 0", "id 4"]
    assert earlier.folder_for("id 3") == tmp_path / "3"
    assert earlier.folder_for("new") == tmp_path / "2"
    assert earlier.folder_for("id 1") == tmp_path / "1"
