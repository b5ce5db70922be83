"""Limits on memory: refused in a sentence, or kept and lifted again."""

import os
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf
from support.command_line import ROOT

from experiments.system.memory_limits import apply_limits
from propainter import InputError

CPU = torch.device("cpu")


def limited(**limits):
    return OmegaConf.create({"limits": {"vram_gb": None, "host_gb": None, **limits}})


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"vram_gb": 8}, "limits.vram_gb needs CUDA"),
        ({"host_gb": "much"}, "limits.host_gb is 'much'"),
        ({"host_gb": 0}, "limits.host_gb is 0"),
        ({"vram_gb": True}, "limits.vram_gb is True"),
    ],
)
def test_a_limit_that_cannot_be_set_is_named(limits, named):
    with pytest.raises(InputError, match=named):
        apply_limits(limited(**limits), CPU)


LIMIT_ON_THE_HOST = """
import numpy, torch
from omegaconf import OmegaConf
from experiments.system.memory_limits import apply_limits
from propainter.errors import InputError, is_out_of_memory

def limit(host_gb):
    return apply_limits(OmegaConf.create({"limits": {"vram_gb": None, "host_gb": host_gb}}), torch.device("cpu"))

try:
    limit(0.01)
except InputError as error:
    print(error)
print(limit(3))
for allocate in (lambda n: torch.empty(n, dtype=torch.uint8), numpy.empty, bytearray):
    allocate(2**26)
    try:
        allocate(2**32)
    except Exception as error:
        print(is_out_of_memory(error))
print(limit(None))
print(numpy.empty(2**32, numpy.uint8).size)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: its limit on a process's data")
def test_on_the_host():
    """Torch's allocation, numpy's and Python's own fail, as out of memory; without the limit they don't."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LIMIT_ON_THE_HOST], capture_output=True, text=True, env=env)
    lines = done.stdout.splitlines()
    assert "the process has" in lines[0], done.stderr
    assert lines[1:] == [str(3 * 2**30), "True", "True", "True", "None", str(2**32)]
