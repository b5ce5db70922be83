"""Where the wall time of one run goes: seconds by part, beginning with the process itself."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

PARTS = ("start", "weights", "build", "read", "inpaint", "write", "rest")
"""`start`: interpreter, imports and settings. `build`: the variant, with machine code that is compiled for it."""

_measured: set[int] = set()
"""The processes whose start an earlier run was given: this one, where there was one."""


class WallTime:
    """Adds up the seconds of each part of a run.

    Attributes:
        seconds: by part (see `PARTS`); `start` is None for all but the first run of a process.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float | None] = dict.fromkeys(PARTS, 0.0)
        self.seconds["start"] = None if os.getpid() in _measured else seconds_since_start()
        _measured.add(os.getpid())
        self._begun = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block's seconds to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a part."""
        self.seconds[name] = (self.seconds[name] or 0.0) + seconds

    def finish(self) -> dict[str, float | None]:
        """Return the seconds of all parts; the rest is what passed since this was made and is in no part."""
        known = sum(seconds or 0.0 for part, seconds in self.seconds.items() if part != "start")
        return {**self.seconds, "rest": max(0.0, time.perf_counter() - self._begun - known)}


def seconds_since_start() -> float:
    """Return the seconds since the system started this process."""
    return max(0.0, time.time() - psutil.Process().create_time())
