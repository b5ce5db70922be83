"""Arrays kept on disk, and computed by one process at a time."""

import logging
import subprocess
import sys
import threading

import numpy as np
import pytest

from experiments.quality.array_cache import ArrayCache


@pytest.fixture
def cache(tmp_path):
    return ArrayCache(tmp_path / "cache", 10**9)


def test_an_array_comes_back_as_it_was(cache):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    cache.put("key", array)
    back = cache.get("key")
    assert np.array_equal(back, array) and back.dtype == array.dtype
    assert cache.get("other") is None


def test_a_damaged_file_is_no_array(cache):
    cache.put("key", np.ones(1000))
    (path,) = cache.folder.glob("*.npy")
    path.write_bytes(path.read_bytes()[:500])
    assert cache.get("key") is None


def test_a_second_claim_waits_for_the_first(cache, caplog):
    caplog.set_level(logging.INFO)
    order = []

    def second():
        with cache.claimed("key", "the same array"):
            order.append("second")

    with cache.claimed("key", "the same array"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        order.append("first")
    waiting.join(20)
    assert order == ["first", "second"]
    assert "another process is computing the same array; waiting for it" in caplog.text


HOLD = """
import sys, time, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_no_lock(cache):
    cache.folder.mkdir(parents=True)
    command = [sys.executable, "-c", HOLD, str(cache.folder / "key.lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    entered = []

    def claim():
        with cache.claimed("key", "an array"):
            entered.append(True)

    try:
        assert holder.stdout.readline() == "held\n"
        waiting = threading.Thread(target=claim)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and not entered
    finally:
        holder.kill()
        holder.communicate()
    waiting.join(20)
    assert entered == [True]


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, caplog):
    (tmp_path / "file").touch()
    with ArrayCache(tmp_path / "file" / "cache", 10**9).claimed("key", "an array"):
        pass
    assert "can't hold a lock" in caplog.text


class TestCache:
    def test_round_trip_and_damage(self, tmp_path, caplog):
        cache = ArrayCache(tmp_path / "deep" / "folder", max_bytes=10**6)
        assert cache.get("key") is None
        array = np.arange(12, dtype=np.uint8).reshape(3, 4)
        cache.put("key", array)
        assert np.array_equal(cache.get("key"), array)
        path = cache.path("key")
        path.write_bytes(path.read_bytes()[:-3])
        assert cache.get("key") is None
        assert "damaged" in caplog.text

    def test_the_least_recently_used_go_first(self, tmp_path):
        import os

        cache = ArrayCache(tmp_path, max_bytes=3500)
        for age, key in enumerate(("a", "b", "c")):
            cache.put(key, np.zeros(1000, np.uint8))
            os.utime(cache.path(key), (age, age))
        cache.get("a")
        cache.put("d", np.zeros(1000, np.uint8))
        assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]

    def test_the_newest_stays_even_if_too_large(self, tmp_path):
        cache = ArrayCache(tmp_path, max_bytes=10)
        cache.put("a", np.zeros(1000, np.uint8))
        assert cache.get("a") is not None
