"""The command line in any order: Hydra's flags and overrides, parsed once."""

import os
import shlex

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
    name = os.path.expanduser(file.strip("'"))
    assert line.arguments() == ["scenes=file", f"scenes.path='{name}'", "measure=none"]
    assert line.value("scenes.path") == name


@pytest.mark.parametrize("scenes", ["scenes=auto", "scenes=none,auto", "scenes=auto,cuts.txt", "scenes.path=cuts.txt"])
def test_other_settings_of_scenes_are_as_given(scenes):
    assert CommandLine.parse([scenes]).arguments() == [scenes]


def values(arguments):
    """Return the values as Hydra reads the line that it is given."""
    given = CommandLine.parse(CommandLine.parse(arguments).arguments())
    return [
        [getattr(value, "text", value) for value in item.sweep_iterator()] if item.is_sweep_override() else item.value()
        for item in given.overrides
    ]


@pytest.mark.parametrize(
    "name",
    ["视频.mp4", "ä b.mp4", "a=b.mp4", "[x].mp4", "a (1).mp4", "a,b.mp4", "it's.mp4", 'q".mp4', "a{b}.mp4", "{a}",
     "[a,b]", "a#b&c;d!.mp4", "100%.mp4", "a~b.mp4", "my clip.mp4", "back\\slash.mp4", "a:b.mp4", "e\u0301.mp4"],
)  # fmt: skip
def test_an_existing_path_is_taken_as_it_is_typed(tmp_path, name):
    (tmp_path / name).touch()
    assert values([f"data.video={tmp_path / name}", "+data.masks=1"]) == [str(tmp_path / name), 1]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("hydra.run.dir=结果/新", "结果/新"),
        ("data.video=~/clip.mp4", "/home/me/clip.mp4"),
        ("data.video='~/clip.mp4'", "/home/me/clip.mp4"),
        ("hydra.run.dir=~/my runs", "/home/me/my runs"),
        ("resume=~", "/home/me"),
        ("cache.dir=~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ("data.video=~/a.mp4,视频.mp4,c.mp4", ["/home/me/a.mp4", "视频.mp4", "c.mp4"]),
        ("scenes.path=~/cuts.txt", "/home/me/cuts.txt"),
        ("data.height=240", 240),
        ("a=null", None),
        ("a=[1,2]", [1, 2]),
        ("a=${oc.env:HOME}/x", "${oc.env:HOME}/x"),
    ],
)
def test_home_and_letters_outside_ascii_need_no_quotes(monkeypatch, typed, read):
    monkeypatch.setenv("HOME", "/home/me")
    (value,) = values([typed])
    assert value == read


def test_a_number_stays_one_where_a_file_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2", "null", "true", "manual"):
        (tmp_path / name).touch()
    assert values(["a=2", "a=null", "a=true", "a=manual"]) == [2, None, True, "manual"]


def test_the_advice_on_quotes_can_be_typed_and_knows_no_folder_called_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(HydraException) as error:
        CommandLine.parse(["data.video=~/it's [1].mp4"])
    (advised,) = shlex.split(str(error.value).partition("one for Hydra: ")[2])
    assert "~" not in advised and values([advised]) == ["/home/me/it's [1].mp4"]


def test_config_folders_in_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert CommandLine.parse(["--config-dir=~/mine"]).flags == ("--config-dir=/home/me/mine",)
