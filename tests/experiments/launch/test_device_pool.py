"""Runs side by side: a device each, its own cores, and an end at an interruption."""

import os
import threading
import time

import pytest
from omegaconf import OmegaConf

from experiments.launch.device_pool import DevicePool, check_timed, slots
from propainter import InputError


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 6, 7}, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_device_has_its_own_cores_and_is_seen_alone(four_cores):
    first, second = slots(["cuda:0", "cuda:3"])
    assert (first.cores, second.cores) == ({2, 3}, {6, 7})
    assert second.overrides == ("device=cuda",)
    assert second.environment == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "3"}
    (cpu,) = slots(["cpu"])
    assert cpu.overrides == ("device=cpu",) and "CUDA_VISIBLE_DEVICES" not in cpu.environment


def test_numbers_are_among_the_visible(four_cores, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    assert slots(["cuda:1"])[0].environment["CUDA_VISIBLE_DEVICES"] == "GPU-abc"
    with pytest.raises(InputError, match="'cuda:2', and CUDA_VISIBLE_DEVICES shows 2 devices"):
        slots(["cuda:2"])


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        ([], "give a list such as"),
        ("cuda:0", "has 'cuda:0'; give a list"),
        (["cuda"], "has 'cuda'; give"),
        (["cpu", 1], "has 1; give"),
        (["cpu"] * 5, "has 5 devices, and there are 4 CPU cores"),
    ],
)
def test_wrong_lists(four_cores, devices, says):
    with pytest.raises(InputError, match=says):
        slots(devices)


def test_timed_runs_do_not_share_a_device():
    timed, once = (OmegaConf.create({"measure": {"max_samples": count}}) for count in (30, 0))
    with pytest.raises(InputError, match="cpu twice, and timed runs there would disturb each other"):
        check_timed(timed, ["cpu", "cpu"])
    check_timed(once, ["cpu", "cpu"])
    check_timed(timed, ["cuda:0", "cuda:1"])


def test_as_many_at_once_as_devices_and_no_device_twice(four_cores):
    pool, busy, most, lock = DevicePool(["cuda:0", "cuda:1"]), set(), [0], threading.Lock()

    def work(slot):
        name = slot.environment["CUDA_VISIBLE_DEVICES"]
        with lock:
            assert name not in busy
            busy.add(name)
            most[0] = max(most[0], len(busy))
        time.sleep(0.05)
        with lock:
            busy.remove(name)

    for _ in range(6):
        pool.submit(work)
    pool.close()
    assert most == [2] and not busy


def test_an_interruption_ends_what_runs_and_starts_no_more(four_cores):
    pool, started, ended = DevicePool(["cpu"]), [], []

    def work(slot):
        started.append(slot)
        try:
            for _ in range(1000):
                pool.check()
                time.sleep(0.01)
        finally:
            ended.append(slot)

    for _ in range(3):
        pool.submit(work)
    while not started:
        time.sleep(0.01)
    pool.close(interrupted=True)
    assert len(started) == len(ended) == 1


def test_a_failure_of_the_work_is_raised_at_the_end(four_cores):
    pool = DevicePool(["cpu"])

    def fails(slot):
        raise OSError(28, "No space left on device")

    pool.submit(fails)
    with pytest.raises(OSError, match="No space left"):
        pool.close()
