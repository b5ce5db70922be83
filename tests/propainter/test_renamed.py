"""Old names: they still work, and each says what it is called now."""

import subprocess
import sys
from importlib import import_module

import pytest
from support.command_line import ROOT

import propainter
from propainter import Clip, Pipeline
from propainter.inference.pipeline import no_split


@pytest.mark.parametrize(("old", "new"), propainter._RENAMED_MODULES.items())
def test_an_old_module_is_the_new_one(old, new):
    sys.modules.pop(f"propainter.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"^propainter\.{old} is called propainter\.{new} now"):
        module = import_module(f"propainter.{old}")
    assert module is sys.modules[f"propainter.{new}"]
    assert module.__name__ == module.__spec__.name == f"propainter.{new}"


@pytest.mark.slow
def test_imports_as_scripts_write_them():
    """An import from an old module and one of it, with the warning at the script's own line."""
    script = "from propainter.networks import build_networks\nimport propainter.files\nprint(propainter.files.__name__)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "propainter.io.atomic\n"
    assert "<string>:1: DeprecationWarning: propainter.networks is called propainter.models.networks" in run.stderr
    assert "<string>:2: DeprecationWarning: propainter.files is called propainter.io.atomic" in run.stderr


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="propainter.nothing"):
        import_module("propainter.nothing")


def test_storage_by_its_old_name():
    with pytest.warns(DeprecationWarning, match="propainter.Resident is called propainter.DeviceStorage now"):
        assert propainter.Resident is propainter.DeviceStorage


def test_attributes_of_a_pipeline_by_their_old_names(networks):
    pipeline = Pipeline(networks)

    def other(inpaint, clip: Clip):
        return clip.frames

    with pytest.warns(DeprecationWarning, match="over_time is called clip_splitter now"):
        assert pipeline.over_time is no_split
    with pytest.warns(DeprecationWarning, match="over_time is called clip_splitter now"):
        pipeline.over_time = other
    with pytest.warns(DeprecationWarning, match="over_stages is called stage_runner now"):
        pipeline.over_stages = other
    assert pipeline.clip_splitter is pipeline.stage_runner is other
