"""Some of the tests for a GPU, run on a CPU: a slip in what they share shows where there is no GPU."""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.command_line import ROOT


@pytest.mark.slow
def test_some_run_on_a_cpu():
    files = ["tests/gpu/test_kernels.py", "tests/gpu/test_options.py"]
    command = [sys.executable, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", "rows_than_cudnn or on_demand"],
        cwd=ROOT,
        env={**os.environ, "PROPAINTER_BENCH_TESTS_ON": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_those_of_a_new_file_come_last():
    spec = importlib.util.spec_from_file_location("gpu_conftest", ROOT / "tests/gpu/conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    files = [ROOT / "tests/gpu" / f"test_{name}.py" for name in ("added", "memory", "golden")]
    items = [SimpleNamespace(fspath=file, add_marker=lambda marker: None) for file in files]
    items = [SimpleNamespace(fspath=ROOT / "tests/test_other.py"), *items]
    conftest.pytest_collection_modifyitems(items)
    assert [item.fspath.stem for item in items] == ["test_other", "test_golden", "test_memory", "test_added"]
