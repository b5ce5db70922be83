"""Many clips one after the other: the next one is read and the last one written while one is computed.

That is MLPerf's offline scenario, beside its single stream of `protocol`. In turn with blocks of such clips, as many go
through the three steps without overlap, so that what slows the machine slows both.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from tqdm import tqdm

from experiments.data.background_io import ReadAhead, WriteBehind
from experiments.measure.confidence import Interval, log_t_interval, mean_interval

Clip = TypeVar("Clip")
Result = TypeVar("Result")

MOST = 10
"""Clips in a block, at most: so far apart are clips that are compared."""

AHEAD = 1
"""As many clips are read before they are asked for, and as many results wait to be written."""


@dataclass(frozen=True)
class Steps(Generic[Clip, Result]):
    """What is done with a clip.

    Attributes:
        read: returns the clip; called in a thread of its own where steps overlap.
        compute: returns the clip's result, finished; called in the caller's thread.
        write: called in a thread of its own where steps overlap.
    """

    read: Callable[[], Clip]
    compute: Callable[[Clip], Result]
    write: Callable[[Result], object]


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of a clip's three steps, made one after the other."""

    read_s: float
    compute_s: float
    write_s: float

    @property
    def seconds(self) -> float:
        """Seconds of all three."""
        return self.read_s + self.compute_s + self.write_s


@dataclass
class Overlapped:
    """Clips whose steps overlap.

    Attributes:
        clip_s: of each clip, from its computation's start to its end.
        completion_s: of each clip, from the completion of the clip before it to its own. A clip is complete when it is
            written; for the first one it counts from the start of its reading.
        waited_for_read_s: seconds that the computation waited for a clip.
        waited_for_write_s: seconds that it waited for room for a result.
    """

    clip_s: list[float] = field(default_factory=list)
    completion_s: list[float] = field(default_factory=list)
    waited_for_read_s: float = 0.0
    waited_for_write_s: float = 0.0


@dataclass(frozen=True)
class Block:
    """Clips whose steps overlap, and as many without overlap around them."""

    overlapped: Overlapped
    sequential: list[StepSeconds]


@dataclass(frozen=True)
class Throughput:
    """The same clips with and without overlap.

    Attributes:
        warmup: the clip before all others, left out of every figure.
        blocks: in the order in which they were made.
    """

    warmup: StepSeconds
    blocks: list[Block]

    @property
    def clip_s(self) -> list[float]:
        """Seconds of each clip with overlap, from its computation's start to its end."""
        return [seconds for block in self.blocks for seconds in block.overlapped.clip_s]

    @property
    def completion_s(self) -> list[float]:
        """Seconds from completion to completion with overlap; see `Overlapped`."""
        return [seconds for block in self.blocks for seconds in block.overlapped.completion_s]

    @property
    def sequential(self) -> list[StepSeconds]:
        """The clips without overlap."""
        return [clip for block in self.blocks for clip in block.sequential]

    @property
    def clips(self) -> int:
        """How many clips overlapped."""
        return len(self.completion_s)

    @property
    def wall_s(self) -> float:
        """Seconds from the start of the first reading to the end of the last writing, with overlap, over all blocks."""
        return sum(self.completion_s)

    @property
    def wall_interval_s(self) -> Interval | None:
        """The 95% interval of `wall_s`, by the mean of the seconds between completions; None where there is one alone.

        A block's first clip counts as it was, since nothing overlaps with its reading.
        """
        later = [seconds for block in self.blocks for seconds in block.overlapped.completion_s[1:]]
        mean = mean_interval(later)
        firsts_s = self.wall_s - sum(later)
        return None if mean is None else Interval(*(firsts_s + len(later) * bound for bound in mean))

    @property
    def sequential_s(self) -> float:
        """Seconds of as many clips without overlap."""
        return sum(clip.seconds for clip in self.sequential)

    @property
    def gains(self) -> list[float]:
        """By clip, its seconds without overlap over those from completion to completion with it.

        The first clip of each block is left out.
        """
        return [
            one.seconds / completion_s
            for block in self.blocks
            for one, completion_s in zip(block.sequential[1:], block.overlapped.completion_s[1:], strict=True)
        ]

    @property
    def gain(self) -> float:
        """Median of `gains`: over 1, overlapping makes it faster."""
        return statistics.median(self.gains)

    @property
    def gain_interval(self) -> Interval | None:
        """The 95% interval of the typical gain; None for one alone."""
        return log_t_interval(self.gains)

    @property
    def gain_limit(self) -> float:
        """What the gain would be if overlapping slowed no step down: all three steps over the longest, a median."""
        return statistics.median(
            clip.seconds / max(clip.read_s, clip.compute_s, clip.write_s) for clip in self.sequential
        )


def measure_throughput(steps: Steps[Clip, Result], clips: int) -> Throughput:
    """Do the steps for a clip to warm up, then for `clips` with overlap, in blocks, and for as many without.

    Around each block are as many clips without overlap, half of them before it and half after.

    Args:
        clips: at least 2.

    Raises:
        ValueError: fewer than 2 clips.
        Exception: any that a step raised; no thread is left then.
    """
    sizes = block_sizes(clips)
    with tqdm(desc="clips      ", disable=None, leave=False, total=1 + 2 * clips) as bar:

        def sequential(count: int) -> list[StepSeconds]:
            return [_one_by_one(steps, bar) for _ in range(count)]

        (warmup,) = sequential(1)
        blocks = []
        for size in sizes:
            before = sequential(size // 2)
            overlapped = _overlapped(steps, size, bar)
            blocks.append(Block(overlapped, before + sequential(size - len(before))))
    return Throughput(warmup, blocks)


def block_sizes(clips: int) -> list[int]:
    """Return how many clips each block has: at most `MOST`, and from 4 clips on at least two blocks.

    Raises:
        ValueError: fewer than 2 clips.
    """
    if clips < 2:
        raise ValueError(f"clips is {clips}; throughput needs at least 2")
    count = max(math.ceil(clips / MOST), 2 if clips >= 4 else 1)
    return [clips // count + (number < clips % count) for number in range(count)]


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that this percentage of the samples do not exceed: no value between two of them.

    Of fewer than 100 samples the 99th percentile is the largest.
    """
    return float(np.percentile(samples, percent, method="inverted_cdf"))


def _one_by_one(steps: Steps[Clip, Result], bar: tqdm) -> StepSeconds:
    start = time.perf_counter()
    clip = steps.read()
    read = time.perf_counter()
    result = steps.compute(clip)
    computed = time.perf_counter()
    steps.write(result)
    written = time.perf_counter()
    bar.update()
    return StepSeconds(read - start, computed - read, written - computed)


def _overlapped(steps: Steps[Clip, Result], count: int, bar: tqdm) -> Overlapped:
    done = Overlapped()
    last = time.perf_counter()

    def read() -> Iterator[Clip]:
        for _ in range(count):
            yield steps.read()

    def write(results: Iterator[Result]) -> None:
        nonlocal last
        for result in results:
            steps.write(result)
            now = time.perf_counter()
            done.completion_s.append(now - last)
            last = now

    with ReadAhead(read(), AHEAD, "decode") as clips, WriteBehind(write, AHEAD, "encode") as written:
        for clip in clips:
            start = time.perf_counter()
            result = steps.compute(clip)
            done.clip_s.append(time.perf_counter() - start)
            written(result)
            bar.update()
    done.waited_for_read_s, done.waited_for_write_s = clips.waited_s, written.waited_s
    return done
