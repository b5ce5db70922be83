"""The tests for a GPU where there is none: all of them are skipped with a reason, and some of them run on a CPU."""

import os
import subprocess
import sys

import pytest
import torch
from support.command_line import ROOT

ON_A_CPU = "test_replays and fp32 or rows_than_cudnn or on_demand"
"""Tests that together use everything that tests/gpu shares."""


def gpu_tests(*arguments: str, on: str) -> str:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "PROPAINTER_BENCH_TESTS_ON": on}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="they run here")
def test_all_are_skipped_without_a_gpu():
    output = gpu_tests("-rs", on="cuda:0")
    assert "torch sees no CUDA device" in output
    assert " skipped in " in output and "passed" not in output


@pytest.mark.slow
def test_some_run_on_a_cpu():
    output = gpu_tests("-k", ON_A_CPU, on="cpu")
    assert "passed" in output and "failed" not in output
