"""Old names: they still work, and each use warns with the new name."""

import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import pytest
from support.command_line import ROOT

import propainter
import variants
from propainter import Clip, Pipeline
from propainter.inference.pipeline import no_split
from propainter.renamed import table

MODULES = [
    (f"{package.__name__}.{old}", f"{package.__name__}.{new}")
    for package in (propainter, variants)
    for old, new in table(package._RENAMED_MODULES).items()
]
NAMES = [
    (old_module, old)
    for old_module, (package, _, new) in ((old, new.partition(".")) for old, new in MODULES)
    for old in table(sys.modules[package]._RENAMED_NAMES.get(new, ""))
]


def imported(old: str):
    """Import a module by its old name, as the first import of a process does."""
    sys.modules.pop(old, None)
    return import_module(old)


@pytest.mark.parametrize(("old", "new"), MODULES)
def test_an_old_module_is_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=f"^{old} is called {new} now"):
        module = imported(old)
    assert module is sys.modules[new]
    assert module.__name__ == module.__spec__.name == new


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *NAMES,
        ("propainter", "Resident"),
        ("propainter.weights", "Unreachable"),
        ("variants", "PUBLISHED"),
        ("variants", "Unsupported"),
        ("variants.attention", "holds_scores"),
        ("variants.correlation", "WHOLE_LEVEL_POSITIONS"),
        ("variants.fallback", "places"),
        *(("variants.kernels.numba_gru", name) for name in ("GATING", "blend", "gates")),
        ("variants.residency", "Lean"),
        ("variants.residency", "Offload"),
    ],
)
@pytest.mark.filterwarnings("ignore:.* is called:DeprecationWarning")
def test_an_old_name_in_its_old_module(module, name):
    found = imported(module) if (module, name) in NAMES else import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"\.{name} is called [\w.]+ now"):
        assert getattr(found, name) is not None


@pytest.mark.filterwarnings("ignore:.* is called:DeprecationWarning")
def test_old_names_are_the_new_objects():
    from propainter.io.images import read_image
    from propainter.weights import UnreachableError

    assert imported("propainter.storage").Resident is propainter.Resident is propainter.DeviceStorage
    assert imported("propainter.video").read_image is read_image
    assert imported("propainter.stages").stage_after_stage is Pipeline.run_stages
    assert import_module("propainter.weights").Unreachable is UnreachableError


@pytest.mark.slow
def test_imports_as_scripts_write_them():
    """Imports from an old module, of it and of an old name, with the warning at the script's own line."""
    script = """
from propainter.networks import build_networks
import propainter.files
from propainter.storage import Resident
print(propainter.files.__name__, Resident.__name__)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "propainter.io.atomic DeviceStorage\n"
    assert "<string>:2: DeprecationWarning: propainter.networks is called propainter.models.networks" in run.stderr
    assert "<string>:3: DeprecationWarning: propainter.files is called propainter.io.atomic" in run.stderr
    assert "<string>:4: DeprecationWarning: propainter.inference.storage.Resident is called " in run.stderr


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="propainter.nothing"):
        import_module("propainter.nothing")


@pytest.mark.parametrize("module", ["propainter", "propainter.weights", "variants"])
def test_a_name_that_never_was_is_not_found(module):
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        import_module(module).nothing  # noqa: B018


def other(inpaint, clip: Clip):
    return clip.frames


def test_attributes_of_a_pipeline_by_their_old_names(networks):
    pipeline = Pipeline(networks)
    with pytest.warns(DeprecationWarning, match="over_time is called clip_splitter now"):
        assert pipeline.over_time is no_split
    with pytest.warns(DeprecationWarning, match="over_time is called clip_splitter now"):
        pipeline.over_time = other
    with pytest.warns(DeprecationWarning, match="over_stages is called stage_runner now"):
        pipeline.over_stages = other
    assert pipeline.clip_splitter is pipeline.stage_runner is other


def test_keywords_of_a_pipeline_by_their_old_names(networks):
    with pytest.warns(DeprecationWarning, match="over_time is called clip_splitter now"):
        pipeline = Pipeline(networks, over_time=other)
    with pytest.warns(DeprecationWarning, match="over_stages is called stage_runner now"):
        pipeline = replace(pipeline, over_stages=other)
    assert pipeline.clip_splitter is pipeline.stage_runner is other
