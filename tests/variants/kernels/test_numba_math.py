"""What numba's loops share leaves torch as it was."""

import os
import subprocess
import sys

import pytest
from support.command_line import ROOT


@pytest.mark.slow
def test_torch_keeps_its_number_of_threads():
    """numba's threads, once started, would set it to the number of cores."""
    script = """
import torch
torch.set_num_threads(3)
print(torch.get_num_threads())
from variants.kernels import gru_op, numba_corr, numba_gru
numba_corr.compile_now(1)
x = torch.zeros(1, 4, 2, 2)
gru_op.blend(x, x, x, x)
print(torch.get_num_threads())
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=environment, capture_output=True)
    assert run.stdout.split() == [b"3", b"3"]
