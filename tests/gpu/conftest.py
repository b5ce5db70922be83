"""Tests on a GPU, the most telling first: under 90 s in all on an H100.

Without CUDA all of them are skipped. `PROPAINTER_BENCH_TESTS_ON=cpu` runs those that a CPU can run on it, with narrow
networks, to find slips in them where there is no GPU.
"""

import copy
import os
from pathlib import Path

import pytest
import torch
from support.options import Bench

from propainter import Networks
from variants.cuda_graphs import stop_graphs
from variants.precision import tf32_flags

DEVICE = torch.device(os.environ.get("PROPAINTER_BENCH_TESTS_ON", "cuda:0"))
ORDER = ("test_golden", "test_cuda_graphs", "test_options", "test_kernels", "test_memory", "test_compile")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {stem: number for number, stem in enumerate(ORDER)}
    here = [item for item in items if Path(item.fspath).parent == Path(__file__).parent]
    ordered = iter(sorted(here, key=lambda item: rank.get(Path(item.fspath).stem, len(ORDER))))
    items[:] = [next(ordered) if item in here else item for item in items]
    absent = DEVICE.type == "cuda" and not torch.cuda.is_available()
    for item in here:
        if absent:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))
        elif DEVICE.type == "cpu" and item.get_closest_marker("cuda_only"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return DEVICE


@pytest.fixture(scope="session")
def on_device(request) -> Networks:
    """Networks with seeded weights on the device: the published ones on a GPU, narrow ones on a CPU."""
    return copy.deepcopy(request.getfixturevalue("networks" if DEVICE.type == "cuda" else "narrow")).to(DEVICE)


@pytest.fixture(scope="session")
def options(on_device, tmp_path_factory) -> Bench:
    """Rows of options on three frames of 128x160."""
    return Bench(on_device, tmp_path_factory.mktemp("flows"), size=(128, 160))


@pytest.fixture(autouse=True)
def _as_before():
    """TF32 off inside a test; afterwards no graph and no limit."""
    with tf32_flags(False):
        yield
    if DEVICE.type == "cuda":
        stop_graphs("the test is over")
        torch.cuda.set_per_process_memory_fraction(1.0)
