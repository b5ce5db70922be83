"""The environment section of a record, and which records' times may be compared."""

import json

import pytest
import torch

from experiments.system import environment
from experiments.system.environment import describe, fingerprint
from experiments.system.git import VARIABLE, Commit
from experiments.system.nvml import NoNvmlError

CPU = torch.device("cpu")
COMPARABLE = ("device", "device_type", "threads", "torch", "cuda", "cudnn", "driver")


def test_is_strict_json_with_every_key():
    described = describe(CPU)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert set(described) == {
        *COMPARABLE,
        *(
            "torchvision",
            "cpu",
            "cores",
            "openmp",
            "python",
            "platform",
            "commit",
            "dirty",
            "commit_source",
            "packages",
            "fingerprint",
        ),
    }


def test_on_a_cpu_cuda_has_no_versions():
    described = describe(CPU)
    assert [described[key] for key in ("cuda", "cudnn", "driver")] == [None, None, None]
    assert described["device"] == described["cpu"]
    assert described["threads"] == torch.get_num_threads() and described["cores"] >= 1


def test_packages_by_version(monkeypatch):
    packages = describe(CPU)["packages"]
    assert packages["numpy"].split(".")[0].isdigit() and packages["hydra-core"]
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    assert describe(CPU)["packages"] == {"numpy": packages["numpy"], "no-such-package": None}


@pytest.mark.parametrize("committed", [Commit("0123abcd", True, "git"), Commit("0123abcd", False, VARIABLE), Commit()])
def test_commit_dirty_and_their_source_are_three_keys(monkeypatch, committed):
    monkeypatch.setattr(environment, "commit", lambda: committed)
    described = describe(CPU)
    assert (described["commit"], described["dirty"], described["commit_source"]) == committed


@pytest.mark.parametrize("key", COMPARABLE)
def test_fingerprint_changes_with_what_shapes_times(key):
    described = describe(CPU)
    assert fingerprint({**described, key: "another"}) != described["fingerprint"]


def test_fingerprint_is_the_same_for_another_commit_and_python():
    described = describe(CPU)
    other = {**described, "commit": "0", "dirty": True, "python": "3.99", "packages": {}, "cores": 999, "openmp": {}}
    assert fingerprint(other) == described["fingerprint"] == describe(CPU)["fingerprint"]


@pytest.mark.parametrize("driver", ["580.65.06", None])
def test_on_a_gpu_with_and_without_nvml(monkeypatch, driver):
    class FakeGpu:
        def __init__(self, device):
            if driver is None:
                raise NoNvmlError("no NVML")

        def driver(self):
            return driver

    monkeypatch.setattr(environment, "Gpu", FakeGpu)
    monkeypatch.setattr(environment, "device_name", lambda device: f"some {device.type}")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    described = describe(torch.device("cuda", 0))
    assert described["device"] == "some cuda" and described["cpu"] == "some cpu"
    assert described["cuda"] == "13.2" and described["driver"] == driver
