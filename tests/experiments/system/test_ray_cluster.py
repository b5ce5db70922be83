"""One clip over two workers of a local Ray: the result of one device, also where a worker is killed."""

import numpy as np
import pytest
import torch
from support import devices
from support.clips import clip
from support.command_line import ROOT

from experiments.system.ray_cluster import RayStages, Worker, ray_cluster
from propainter import InputError
from variants import UnsupportedError

CPU = torch.device("cpu")


class TestByOneProcess:
    """The units without Ray: what is called on an actor is called here."""

    @pytest.fixture
    def stages(self, monkeypatch):
        class Called:
            def __init__(self, worker):
                self.worker = worker

            def __getattr__(self, name):
                method = getattr(self.worker, name)
                return type("Method", (), {"remote": staticmethod(method)})

        fake = type("ray", (), {"put": staticmethod(lambda x: x), "get": staticmethod(lambda x: x)})
        fake.exceptions = type("exceptions", (), {"RayTaskError": OSError, "RayError": OSError})
        monkeypatch.setitem(__import__("sys").modules, "ray", fake)
        return RayStages([Called(Worker(devices.without_raft, "cpu")) for _ in range(2)])

    @pytest.mark.slow
    def test_the_result_is_that_of_one_device(self, stages):
        pipeline = devices.without_raft()
        expected = pipeline(*clip(9))
        pipeline.stage_runner = stages
        assert np.array_equal(pipeline(*clip(9)), expected)


def test_without_ray_it_is_unsupported(monkeypatch):
    monkeypatch.setattr("experiments.system.ray_cluster.find_spec", lambda name: None)
    says = r"ray is not installed: pip install 'propainter-bench\[ray\]'"
    with pytest.raises(UnsupportedError, match=says), ray_cluster(None, 2, CPU, devices.pipeline):
        pass


@pytest.mark.parametrize("address", ["localhost:1", "ray://localhost:1", "a..b:6379", "localhost:99999"])
def test_an_address_where_nothing_listens_is_found_at_once(monkeypatch, address):
    monkeypatch.setattr("experiments.system.ray_cluster.find_spec", lambda name: name)
    monkeypatch.setattr("experiments.system.ray_cluster.import_module", lambda name: None)
    with (
        pytest.raises(InputError, match=f"cluster.address is '{address}', and nothing answers there"),
        ray_cluster(address, 2, CPU, devices.pipeline),
    ):
        pass


@pytest.mark.slow
class TestRay:
    """Needs ray, which dev does not have."""

    @pytest.fixture(autouse=True)
    def ray(self, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
        return pytest.importorskip("ray", reason="needs ray: pip install 'propainter-bench[ray]'")

    def test_the_result_is_that_of_one_device(self):
        expected = devices.without_raft()(*clip(9))
        with ray_cluster(None, 2, CPU, devices.without_raft) as stages:
            pipeline = devices.without_raft()
            pipeline.stage_runner = stages
            assert np.array_equal(pipeline(*clip(9)), expected)

    def test_a_worker_that_is_killed_is_started_again(self, tmp_path):
        expected = devices.without_raft()(*clip(9))
        with ray_cluster(None, 2, CPU, devices.DiesOnce(str(tmp_path / "died"))) as stages:
            pipeline = devices.without_raft()
            pipeline.stage_runner = stages
            assert np.array_equal(pipeline(*clip(9)), expected)
        assert (tmp_path / "died").exists()
