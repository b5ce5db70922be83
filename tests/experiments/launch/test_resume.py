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


@pytest.fixture
def suite(tmp_path):
    """A suite's folder: records in folders, as a sweep's, and Hydra's of the suite itself."""
    (tmp_path / "suite" / "first").mkdir(parents=True)
    (tmp_path / "suite" / "first" / "record.json").write_text("{}")
    (tmp_path / "suite" / ".hydra").mkdir()
    (tmp_path / "suite" / ".hydra" / "config.yaml").write_text("task:\n  _target_: experiments.tasks.suite.run\n")
    stored = "- experiment=gpu_suite\n- suite.slice=1\n- weights=seeded\n"
    (tmp_path / "suite" / ".hydra" / "overrides.yaml").write_text(stored)
    return tmp_path / "suite"


def test_a_suite_goes_on_as_it_was_started_but_for_what_is_typed(suite):
    where = f"hydra.run.dir='{suite}'"
    told = ["experiment=gpu_suite", "weights=seeded", f"resume={suite}", "suite.slice=2", where]
    assert resume(f"resume={suite}", "suite.slice=2") == told
    with pytest.raises(InputError, match="leave out -m"):
        resume("-m", f"resume={suite}")


def test_a_quality_table_goes_on_as_it_was_started(suite):
    (suite / ".hydra" / "config.yaml").write_text("task:\n  _target_: experiments.tasks.removal_quality.run\n")
    assert f"hydra.run.dir='{suite}'" in resume(f"resume={suite}")
    with pytest.raises(InputError, match="is the folder of a quality table; leave out -m"):
        resume("-m", f"resume={suite}")


@pytest.mark.parametrize("target", ["experiments.suite.run", "experiments.tasks.suite.claims"])
def test_a_suite_of_any_version_goes_on(suite, target):
    (suite / ".hydra" / "config.yaml").write_text(f"task:\n  _target_: {target}\n")
    assert f"hydra.run.dir='{suite}'" in resume(f"resume={suite}")


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml"])
@pytest.mark.parametrize("content", [b"task: [", b"\xff\xfe\x00"])
def test_a_damaged_file_of_the_suite_is_named(suite, name, content):
    (suite / ".hydra" / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} can't be read \(.*restore it"):
        resume(f"resume={suite}")


@pytest.mark.parametrize(
    ("name", "more", "named"),
    [
        (
            "nowhere",
            [],
            "which is not there; give the folder of a suite, a quality table, an evaluation, a training, a search, a "
            "sweep or a streaming run",
        ),
        ("file", [], "which is a file"),
        ("empty", [], "which holds nothing that can go on"),
        ("single", [], "the folder of a single run, which can't go on; run its command again"),
        ("a sweep", ["hydra.sweep.dir=elsewhere"], "two folders"),
        ("suite", ["hydra.run.dir=elsewhere"], "two folders"),
    ],
)
def test_what_cannot_go_on(folder, suite, tmp_path, name, more, named):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "record.json").touch()
    with pytest.raises(InputError, match=named):
        resume(f"resume='{tmp_path}/{name}'", *more)


@pytest.fixture
def streamed(tmp_path):
    """A streaming run's folder, before a part of it was whole."""
    folder = tmp_path / "streamed"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(
        "task: {_target_: experiments.tasks.inpaint.run}\nresidency: {_target_: variants.residency.streaming}\n"
        "measure: {max_samples: 0, reference: false}\n"
    )
    (folder / ".hydra" / "overrides.yaml").write_text("- residency=streaming\n- isolate=false\n- weights=seeded\n")
    return folder


def test_a_streaming_run_goes_on_as_it_was_started_but_for_what_is_typed(streamed):
    where = f"hydra.run.dir='{streamed}'"
    told = ["residency=streaming", f"resume={streamed}", "weights=auto", where]
    assert resume(f"resume={streamed}", "weights=auto") == told
    with pytest.raises(InputError, match="leave out -m"):
        resume("-m", f"resume={streamed}")


def test_a_complete_streaming_run_has_nothing_to_do(streamed, bench):
    (streamed / "record.json").write_text('{"status": "ok"}')
    done = bench(f"resume={streamed}", f"hydra.run.dir={streamed}")
    assert done.code == 0
    assert done.out == f"the run in {streamed} is complete; nothing to do\n"
    (streamed / "record.json").write_text('{"status": "failed"}')
    assert resume(f"resume={streamed}")


def test_a_run_that_was_measured_does_not_go_on(streamed):
    config = streamed / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("max_samples: 0", "max_samples: 3"))
    with pytest.raises(InputError, match="the folder of a single run, which can't go on"):
        resume(f"resume={streamed}")


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
