"""Many clips with and without overlap, by steps that note what they did."""

import math
import threading
import time

import numpy as np
import pytest

from experiments.measure.throughput import (
    Block,
    Overlapped,
    Steps,
    StepSeconds,
    Throughput,
    block_sizes,
    measure_throughput,
    percentile,
)
from experiments.record.sections import describe_throughput
from propainter import InputError


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = {*threading.enumerate()}
    yield
    left = {*threading.enumerate()} - before
    assert {thread for thread in left if thread.name != "tqdm_monitor"} == set()  # one for all bars of the process


class Noted:
    """Steps whose clips are numbers, their results the negative ones.

    Args:
        slow: a step that takes a while, or "all" of them.
        seconds: how long a slow step takes.
        fail: a step, the clip that it fails at, and the error.
    """

    def __init__(
        self, slow: str = "", fail: tuple[str, int, BaseException] | None = None, seconds: float = 0.03
    ) -> None:
        self.slow, self.fail, self.seconds = slow, fail, seconds
        self.read_ones, self.computed, self.written = [], [], []
        self.threads = {"read": [], "compute": [], "write": []}
        self.most_ahead = self.most_behind = 0

    @property
    def steps(self) -> Steps:
        return Steps(self._read, self._compute, self._write)

    def _step(self, name: str, number: int) -> None:
        self.threads[name].append(threading.current_thread())
        if self.slow in (name, "all"):
            time.sleep(self.seconds)
        if self.fail is not None and self.fail[:2] == (name, number):
            raise self.fail[2]

    def _read(self) -> int:
        number = len(self.read_ones)
        self.read_ones.append(number)
        self.most_ahead = max(self.most_ahead, number - len(self.computed))
        self._step("read", number)
        return number

    def _compute(self, number: int) -> int:
        self._step("compute", number)
        self.computed.append(number)
        self.most_behind = max(self.most_behind, number - len(self.written))
        return -number

    def _write(self, result: int) -> None:
        self._step("write", -result)
        self.written.append(-result)


CLIPS = 3
OVERLAPPED = slice(2, 5)
"""Which of all clips overlap: one warms up, half of those without overlap come before, and it is one block."""


def test_order_threads_and_counts():
    noted = Noted()
    measured = measure_throughput(noted.steps, CLIPS)
    assert noted.read_ones == noted.computed == noted.written == list(range(1 + 2 * CLIPS))
    main = threading.main_thread()
    assert {*noted.threads["compute"]} == {main}
    for step in ("read", "write"):
        beside = [thread is not main for thread in noted.threads[step]]
        assert [number for number, other in enumerate(beside) if other] == list(range(1 + 2 * CLIPS))[OVERLAPPED]
    assert (measured.clips, len(measured.sequential), len(measured.clip_s)) == (CLIPS,) * 3
    assert len(measured.gains) == CLIPS - 1


@pytest.mark.parametrize(
    ("clips", "sizes"), [(2, [2]), (3, [3]), (4, [2, 2]), (5, [3, 2]), (10, [5, 5]), (20, [10, 10]), (21, [7, 7, 7])]
)
def test_blocks_with_and_without_overlap_take_turns(clips, sizes):
    assert block_sizes(clips) == sizes
    noted = Noted()
    measured = measure_throughput(noted.steps, clips)
    turns = ["s"] + ["s" * (size // 2) + "o" * size + "s" * (size - size // 2) for size in sizes]
    main = threading.main_thread()
    assert "".join("s" if thread is main else "o" for thread in noted.threads["write"]) == "".join(turns)
    assert [len(block.sequential) for block in measured.blocks] == sizes
    assert len(measured.gains) == clips - len(sizes)
    assert measured.wall_s == pytest.approx(sum(measured.completion_s))


def test_no_more_than_one_clip_is_ahead_and_one_result_waits():
    noted = Noted(slow="compute")
    measure_throughput(noted.steps, 8)
    assert noted.most_ahead == 1
    noted = Noted(slow="write")
    (first, _) = measure_throughput(noted.steps, 10).blocks
    assert noted.most_behind == 2  # one is being written, one waits, and this one is done
    assert first.overlapped.waited_for_write_s > 0


@pytest.mark.slow
def test_the_gain_of_three_equal_steps():
    """Steps of a tenth of a second, so that a busy machine's pauses are small beside them."""
    measured = measure_throughput(Noted(slow="all", seconds=0.1).steps, 6)
    assert 1.5 < measured.gain < 3.5  # 3 where the machine does nothing else
    assert 2 < measured.gain_limit < 3.1
    assert measured.wall_s < measured.sequential_s
    assert all(block.overlapped.waited_for_read_s > 0.03 for block in measured.blocks)  # for the first clip


@pytest.mark.parametrize("step", ["read", "compute", "write"])
@pytest.mark.parametrize("number", [0, OVERLAPPED.start + 1, OVERLAPPED.stop - 1, OVERLAPPED.stop])
def test_an_error_of_a_step_is_the_runs_own(step, number):
    noted = Noted(fail=(step, number, InputError("the film is torn; mend it")))
    with pytest.raises(InputError, match="^the film is torn; mend it$"):
        measure_throughput(noted.steps, CLIPS)
    assert noted.written == list(range(len(noted.written)))
    assert len(noted.read_ones) <= number + 4


def test_an_interruption_ends_all():
    noted = Noted(fail=("compute", OVERLAPPED.start + 2, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        measure_throughput(noted.steps, CLIPS)
    assert len(noted.read_ones) <= OVERLAPPED.start + 4


def test_one_clip_is_too_few():
    noted = Noted()
    with pytest.raises(ValueError, match="clips is 1"):
        measure_throughput(noted.steps, 1)
    assert noted.read_ones == []


@pytest.mark.parametrize("count", [1, 2, 10, 99, 100, 101])
@pytest.mark.parametrize("percent", [50, 90, 99])
def test_a_percentile_is_a_sample(count, percent):
    samples = list(np.random.default_rng(count).permutation(count) + 1.0)
    rank = math.ceil(percent * count / 100)
    assert percentile(samples, percent) == rank == np.percentile(samples, percent, method="inverted_cdf")
    if percent == 99 and count < 100:
        assert percentile(samples, percent) == max(samples)


def made(completion_s, sequential_s, clip_s) -> Throughput:
    one_by_one = [StepSeconds(0.1, seconds - 0.3, 0.2) for seconds in sequential_s]
    blocks, start = [], 0
    for size in block_sizes(len(completion_s)):
        part, start = slice(start, start + size), start + size
        blocks.append(Block(Overlapped(clip_s[part], completion_s[part], 0.5, 0.25), one_by_one[part]))
    return Throughput(StepSeconds(9, 9, 9), blocks)


def test_the_record_has_it_all():
    completion_s, sequential_s = [1.5, 1.0, 1.1, 1.4, 0.9], [1.3, 1.2, 1.4, 1.25, 1.2]
    record = describe_throughput(made(completion_s, sequential_s, [0.9, 0.8, 1.0, 0.85, 0.95]), 10)
    assert (record["clips"], record["blocks"], record["wall_s"]) == (5, [3, 2], pytest.approx(5.9))
    assert record["frames_per_s"] == pytest.approx(50 / 5.9)
    low, high = record["ci95_frames_per_s"]
    assert 50 / 7 < low < record["frames_per_s"] < high < 50 / 5
    assert (record["clip_median_s"], record["clip_p90_s"], record["clip_p99_s"]) == (0.9, 1.0, 1.0)
    assert record["sequential_frames_per_s"] == pytest.approx(50 / sum(sequential_s))
    ratios = [sequential_s[number] / completion_s[number] for number in (1, 2, 4)]
    gain = record["overlap_gain"]
    assert gain["median"] == pytest.approx(np.median(ratios))
    assert gain["ci95"][0] < gain["median"] < gain["ci95"][1]
    assert gain["limit"] == pytest.approx(np.median([seconds / (seconds - 0.3) for seconds in sequential_s]))
    medians = [record[f"{step}_median_s"] for step in ("read", "compute", "write")]
    assert medians == [pytest.approx(value) for value in (0.1, 0.95, 0.2)]
    assert (record["waited_for_read_s"], record["waited_for_write_s"]) == (1.0, 0.5)


def test_two_clips_have_no_interval():
    record = describe_throughput(made([1.5, 1.0], [1.3, 1.2], [0.9, 0.8]), 3)
    assert (record["ci95_frames_per_s"], record["overlap_gain"]["ci95"]) == (None, None)
    assert record["overlap_gain"]["median"] == pytest.approx(1.2)
