"""OpenMP's environment variables: the user's first, and read by torch's library."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.command_line import ROOT

from experiments.system import openmp
from experiments.system.openmp import openmp_settings, set_openmp_defaults


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    environment = {"PATH": "somewhere"}
    monkeypatch.setattr(openmp, "os", SimpleNamespace(environ=environment))
    return environment


def test_defaults_are_set_and_reported(environment):
    assert openmp_settings() == {"wait_policy": None, "spin_count": None, "threads": None}
    set_openmp_defaults()
    assert environment["GOMP_SPINCOUNT"] == openmp.DEFAULTS["GOMP_SPINCOUNT"]
    assert openmp_settings() == {"wait_policy": None, "spin_count": environment["GOMP_SPINCOUNT"], "threads": None}


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_the_users_own_setting_wins(environment, name, value):
    environment[name] = value
    set_openmp_defaults()
    assert environment == {"PATH": "somewhere", name: value}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs torch with libgomp")
def test_torch_reads_what_is_set_before_its_import(monkeypatch):
    monkeypatch.undo()
    code = "from experiments.system.openmp import set_openmp_defaults\nset_openmp_defaults()\nimport torch\n"
    unset = {key: value for key, value in os.environ.items() if key not in openmp.WAITING}
    env = {**unset, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{openmp.DEFAULTS['GOMP_SPINCOUNT']}'" in done.stderr
