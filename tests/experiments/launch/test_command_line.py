"""The command line in any order: Hydra's flags and overrides, parsed once."""

import pytest
from hydra.errors import HydraException

from experiments.launch.command_line import CommandLine


@pytest.mark.parametrize(
    ("arguments", "flags", "overrides"),
    [
        ([], [], []),
        (["hydra.searchpath=[file://mine/conf]", "-m", "attention=manual,relu"], ["--multirun"],
         ["hydra.searchpath=[file://mine/conf]", "attention=manual,relu"]),
        (["-m", "a=1,2", "b=1"], ["--multirun"], ["a=1,2", "b=1"]),
        (["a=1,2", "--multirun", "b=1", "+c=2", "~d"], ["--multirun"], ["a=1,2", "b=1", "+c=2", "~d"]),
        (["a=1", "--cfg", "job", "b=2", "--resolve"], ["--cfg=job", "--resolve"], ["a=1", "b=2"]),
        (["a=1", "-cn", "mine", "b=2", "--config-dir", "/x=y", "c=3"], ["--config-dir=/x=y", "--config-name=mine"],
         ["a=1", "b=2", "c=3"]),
        (["a=1", "--info", "b=2"], ["--info=all"], ["a=1", "b=2"]),
        (["a=1", "-i", "defaults", "b=2"], ["--info=defaults"], ["a=1", "b=2"]),
        (["--info"], ["--info=all"], []),
        (["a=1", "-cp", "pkg://mine", "b=2"], ["--config-path=pkg://mine"], ["a=1", "b=2"]),
        (["a=1", "--help", "b=2"], ["--help"], ["a=1", "b=2"]),
    ],
)  # fmt: skip
def test_any_order(arguments, flags, overrides):
    line = CommandLine.parse(arguments)
    assert sorted(line.flags) == flags
    assert [item.input_line for item in line.overrides] == overrides
    assert CommandLine.parse(line.arguments()) == line


def test_a_config_path_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CommandLine.parse(["a=1", "--config-path", "mine"]).flags == (f"--config-path={tmp_path}/mine",)


@pytest.mark.parametrize(
    ("argument", "named"),
    [("data.frames=/a (1)/b=c", "'data.frames=\"/a (1)/b=c\"'"), ("schedule.ref_stride=[", "ref_stride"), ("a", "a")],
)
def test_an_override_that_cannot_be_read(argument, named):
    with pytest.raises(HydraException, match="(?s).*") as error:
        CommandLine.parse(["-m", argument])
    assert named in str(error.value)


def test_a_flag_that_does_not_exist(capsys):
    with pytest.raises(SystemExit, match="2"):
        CommandLine.parse(["a=1", "--sweep"])
    assert "--sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "device"),
    [
        ([], "auto"),
        (["-m", "preset=fast", "device=cpu"], "cpu"),
        (["device=cuda:1", "--multirun"], "cuda:1"),
        (["attention=sdpa", "+device=cuda"], "cuda"),
        (["-m", "device=cpu,cuda", "preset=published,fast_cpu"], "auto"),
        (["-m", "device=choice(cpu,cuda)"], "auto"),
        (["-m", "device=cpu,cuda", "preset=glob(published*)"], "auto"),
    ],
)
def test_the_device_that_is_asked_for(arguments, device):
    assert CommandLine.parse(arguments).device() == device


@pytest.mark.parametrize("given", ["preset=fast", "preset=published,fast", "preset=glob(*)"])
def test_preset_fast_is_not_swept_over_devices(given):
    with pytest.raises(HydraException, match="sweep preset=fast_cpu and preset=fast_cuda one device at a time"):
        CommandLine.parse(["-m", given, "device=cpu,cuda"]).device()


@pytest.mark.parametrize(
    ("arguments", "possible"),
    [
        (["attention=sdpa"], False),
        (["--cfg", "job"], False),
        (["preset=fast"], True),
        (["-m", "experiment=micro"], True),
        (["hydra.searchpath=[file:///x]"], True),
        (["--config-name=mine"], True),
        (["-cd", "mine"], True),
    ],
)
def test_whether_preset_fast_can_come_in(arguments, possible):
    assert CommandLine.parse(arguments).may_hold_preset_fast() is possible


@pytest.mark.parametrize("file", ["cuts.txt", "~/cuts", "/data/my-cuts.csv", "'cuts 1.txt'"])
def test_a_file_of_scenes_is_short_for_two_settings(file):
    line = CommandLine.parse([f"scenes={file}", "measure=none"])
    name = file.strip("'")
    assert line.arguments() == ["scenes=file", f"scenes.path='{name}'", "measure=none"]
    assert line.value("scenes.path") == name


@pytest.mark.parametrize("scenes", ["scenes=auto", "scenes=none,auto", "scenes=auto,cuts.txt", "scenes.path=cuts.txt"])
def test_other_settings_of_scenes_are_as_given(scenes):
    assert CommandLine.parse([scenes]).arguments() == [scenes]
