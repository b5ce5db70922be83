"""Run a command in a session of its own, and end it with all processes that it started."""

import atexit
import ctypes
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""

TICK_S = 1.0
STACKS = "HYDRA_FULL_ERROR"
_ASKED_FOR_STACKS = os.environ.get(STACKS)  # before experiments.launch.cli sets it for Hydra in this process
_PARENT = "PROPAINTER_BENCH_PARENT"


@dataclass(frozen=True)
class ProcessResult:
    """How a command ended.

    Attributes:
        returncode: the exit code; the signal's number below 0 where one ended it.
        wall_s: from its start to its end.
        timed_out: whether its time limit ended it.
        last_lines: the last lines of its output; of a timed-out one, those before it was ended.
    """

    pid: int
    returncode: int
    wall_s: float
    timed_out: bool
    last_lines: str


def run_command(
    command: Sequence[str],
    output: Path,
    *,
    seconds: float | None = None,
    echo: bool = False,
    tick: Callable[[], object] | None = None,
    append: bool = False,
    environment: Mapping[str, str] | None = None,
    cores: Collection[int] | None = None,
) -> ProcessResult:
    """Run a command until it ends, then kill what it left running in its session, even if an error is raised here.

    Args:
        output: file for the command, its pid, and all that it prints.
        seconds: time limit: SIGTERM after these, SIGKILL `GRACE_S` later.
        echo: whether its output goes to this process's stdout and stderr too.
        tick: called about once a second.
        append: whether what `output` holds already is kept.
        environment: variables besides this process's own.
        cores: on which it may run (Linux); None for all of this process's.

    Raises:
        OSError: `output` can't be written, or the command can't be started.
    """
    start = time.monotonic()
    with output.open("a" if append else "w", errors="replace") as log_file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if echo else log_file,
            stderr=subprocess.PIPE if echo else subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**_environment(), **(environment or {})},
        )
        if cores and hasattr(os, "sched_setaffinity"):
            with suppress(ProcessLookupError):  # before it has started a thread
                os.sched_setaffinity(process.pid, cores)
        threads = [threading.Thread(target=_until_it_ends, args=(process,), daemon=True)]
        if echo:
            pipes = (process.stdout, sys.stdout), (process.stderr, sys.stderr)
            threads += [threading.Thread(target=_tee, args=(*pipe, log_file), daemon=True) for pipe in pipes]
        last = ""
        try:
            with suppress(OSError):
                typed = shlex.join(command).replace("\n", " ")
                print(f"process {process.pid}: {typed}", file=log_file, flush=True)
            for thread in threads:
                thread.start()
            timed_out = not _ends_within(seconds, threads[0], tick)
            if timed_out:
                last = last_lines(output)
        finally:
            _stop(process, threads[0])
            for reader in threads[1:]:
                if reader.is_alive():
                    reader.join(GRACE_S)
    wall_s = time.monotonic() - start
    return ProcessResult(process.pid, process.returncode, wall_s, timed_out, last if timed_out else last_lines(output))


def die_with_parent() -> None:
    """Make the kernel kill this process when the one whose `run_command` started it is gone (Linux)."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None:
        return
    _inherited.append(int(parent))
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
        if os.getppid() != int(parent):  # it was gone before
            os._exit(1)


def is_child() -> bool:
    """Return whether `run_command` started this process. Valid after `die_with_parent`."""
    return bool(_inherited)


def fast_exit() -> Callable[[int], NoReturn]:
    """Return a function that ends this process as `sys.exit(code)` does, without freeing its objects.

    It waits for threads, calls the exit functions registered after this call, and flushes output. Freeing torch object
    by object would take another second, in each run of a sweep.
    """
    codes: list[int] = []

    def last_of_all() -> None:
        if codes:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(codes[0])

    def leave(code: int) -> NoReturn:
        codes.append(code)
        sys.exit(code)

    atexit.register(last_of_all)
    return leave


def last_lines(output: Path, count: int = 3, length: int = 400) -> str:
    """Return the last non-empty lines, joined by " | ", without colours and overwritten progress bars; "" for none."""
    try:
        with output.open("rb") as file:
            file.readline()  # the command
            begin = file.tell()
            file.seek(max(begin, file.seek(0, os.SEEK_END) - 16_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].strip() for line in text.split("\n")]
    return " | ".join([line for line in lines if line][-count:])[-length:]


_inherited: list[int] = []


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != STACKS}
    if _ASKED_FOR_STACKS is not None:
        environment[STACKS] = _ASKED_FOR_STACKS
    return {**environment, _PARENT: str(os.getpid())}


def _until_it_ends(process: subprocess.Popen) -> None:
    """Wait without polling: `Popen.wait(timeout)` wakes up often, which could disturb a timed run."""
    if hasattr(os, "waitid"):
        with suppress(ChildProcessError):  # `_stop` has waited for it
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # not reaped: the group's number stays its own
    else:
        process.wait()


def _ends_within(seconds: float | None, waiter: threading.Thread, tick: Callable[[], object] | None) -> bool:
    deadline = None if seconds is None else time.monotonic() + seconds
    while waiter.is_alive():
        left = TICK_S if deadline is None else min(TICK_S, deadline - time.monotonic())
        if left <= 0:
            return False
        waiter.join(left)
        if tick is not None:
            tick()
    return True


def _stop(process: subprocess.Popen, waiter: threading.Thread) -> None:
    try:
        if waiter.is_alive():
            _signal_group(process.pid, signal.SIGTERM)
            waiter.join(GRACE_S)
    finally:
        _signal_group(process.pid, signal.SIGKILL)  # what it left running, or itself
        process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: the second for a group of zombies
        os.killpg(group, number)


def _tee(source: IO[str], screen: IO[str], log_file: IO[str]) -> None:
    """Copy a pipe to screen and file, and go on if they fail: a full pipe would block the process."""
    with source:
        for line in source:
            for target in (log_file, screen):
                with suppress(OSError):
                    target.write(line)
                    target.flush()
