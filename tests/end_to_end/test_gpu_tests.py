"""Some of the tests for a GPU, run on a CPU: a slip in what they share shows where there is no GPU."""

import os
import subprocess
import sys

import pytest
from support.command_line import ROOT


@pytest.mark.slow
def test_some_run_on_a_cpu():
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", "rows_than_cudnn or on_demand"],
        cwd=ROOT,
        env={**os.environ, "PROPAINTER_BENCH_TESTS_ON": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
