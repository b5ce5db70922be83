"""Processes for the devices of one clip: this one has the first, and starts one for each of the others."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from experiments.errors import FORESEEN, LostProcessError
from experiments.system.environment import choose_device
from propainter import InputError, Pipeline
from propainter.errors import is_out_of_memory
from propainter.inference.distributed import SharedRunner, SharedStages
from propainter.inference.interfaces import Clip

log = logging.getLogger(__name__)

ENDS_S = 5
"""Seconds in which processes end once one has."""

START_S = 600
"""Seconds after which a process that has not answered counts as lost."""


Build = Callable[[str], Pipeline]
"""Build the pipeline on a device; it has to be picklable."""


def check_devices(devices: Any) -> list[torch.device] | None:
    """Return the devices of one clip; None without a list.

    Raises:
        InputError: no list, a device that torch does not see, devices of two kinds, or a GPU twice.
    """
    if devices is None:
        return None
    if not isinstance(devices, list) or not devices or not all(isinstance(name, str) for name in devices):
        raise InputError(f"devices is {devices!r}; give a list such as [cuda:0,cuda:1], or null")
    found = [choose_device(name) for name in devices]
    if len({device.type for device in found}) > 1:
        raise InputError(f"devices is {list(devices)}; give devices of one kind")
    if found[0].type == "cuda" and len(set(found)) < len(found):
        raise InputError(f"devices is {list(devices)}, with a GPU twice; give each once")
    cores = _cores()
    if found[0].type == "cpu" and len(found) > len(cores):
        raise InputError(f"devices has {len(found)} processes for {len(cores)} CPU cores; give fewer")
    return found


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


@dataclass
class DeviceGroup(SharedRunner):
    """The processes of one clip's devices: a `StageRunner` once `spread` has been called.

    Attributes:
        devices: of all processes, the present one's first.
        peaks: device -> peak memory of its process in the last run, in bytes; of GPUs what torch allocated, of CPUs the
            resident set.
    """

    devices: list[torch.device]
    processes: list[Any] = field(default_factory=list)
    pipes: list[Connection] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def spread(self, pipeline: Pipeline) -> Pipeline:
        """Let the pipeline run over all devices, and return it."""
        pipeline.stage_runner = self
        pipeline.effective["devices"] = {
            "devices": [str(device) for device in self.devices],
            "threads": torch.get_num_threads() if self.devices[0].type == "cpu" else None,
            "peak_bytes": self.peaks,
        }
        return pipeline

    def __call__(self, pipeline: Pipeline, clip: Clip) -> np.ndarray:
        """Return [T, H, W, 3]."""
        self.announce(pipeline, clip, len(self.devices))
        stages = SharedStages()
        stages.on_frames = None if self.on_frames is None else self._deliver
        for pipe in self.pipes:
            self._talk(partial(pipe.send, tuple(clip)))
        try:
            result: np.ndarray = self._talk(lambda: stages(pipeline, clip))
        except _OwnError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None
        self.peaks[:] = [_peak_bytes(self.devices[0])]
        for number, pipe in enumerate(self.pipes, 1):
            kind, content = self._talk(pipe.recv)
            if kind != "done":
                raise _error(number, self.devices[number], kind, content)
            self.peaks.append(content)
        return result

    def _talk(self, work: Callable[[], Any]) -> Any:
        """Do work that needs the other processes; say in one sentence which of them has ended.

        Raises:
            LostProcessError, or the error that ended another process.
        """
        try:
            return work()
        except (RuntimeError, OSError, EOFError) as error:
            if is_out_of_memory(error):
                raise
            causes = self._why_others_ended()
            if causes:
                raise min(causes, key=_rank) from None
            raise

    def _why_others_ended(self) -> list[Exception]:
        """Return an error for each process that has ended, or ends within seconds."""
        if wait([process.sentinel for process in self.processes], ENDS_S):
            time.sleep(ENDS_S / 5)  # those whose exchange failed too end a little later
        found: list[Exception] = []
        for number, (pipe, process) in enumerate(zip(self.pipes, self.processes, strict=True), 1):
            process.join(0)
            if process.exitcode is None:
                continue
            known = _last_message(pipe)
            if known is not None and known[0] not in ("built", "done"):
                found.append(_error(number, self.devices[number], *known))
                continue
            name = f"the process on {self.devices[number]} (number {number + 1} of {len(self.devices)})"
            found.append(LostProcessError(f"{name} {_how_it_ended(process.exitcode)}, and the run with it"))
        return found

    def _deliver(self, images: np.ndarray) -> None:
        assert self.on_frames is not None
        try:
            self.on_frames(images)
        except Exception as error:
            raise _OwnError from error

    def wait_until_built(self) -> None:
        """Wait until every process has its pipeline.

        Raises:
            LostProcessError, or the error of another process: one could not build it.
        """
        for number, pipe in enumerate(self.pipes, 1):
            kind, content = self._talk(pipe.recv)
            if kind != "built":
                raise _error(number, self.devices[number], kind, content)

    def close(self) -> None:
        """End the other processes."""
        for pipe in self.pipes:
            with suppress(OSError):
                pipe.send(None)
        deadline = time.monotonic() + ENDS_S
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()


class _OwnError(Exception):
    """Frames could not be handed on: an error of this process, whose cause it is."""


def _rank(error: Exception) -> int:
    """Return how near an error is to the first cause: the others follow from an exchange that failed."""
    return 0 if isinstance(error, LostProcessError) else 1 if type(error) in FORESEEN.values() else 2


def _last_message(pipe: Connection) -> tuple[str, Any] | None:
    """Return what a process that has ended said last; None where it said nothing."""
    message = None
    with suppress(OSError, EOFError):
        while pipe.poll():
            message = pipe.recv()
    return message


def _error(number: int, device: torch.device, kind: str, text: str) -> Exception:
    """Return the error of another process, of its own kind where that is one that users meet."""
    known = FORESEEN.get(kind)
    return known(text) if known else RuntimeError(f"in the process on {device} (number {number + 1}): {kind}: {text}")


def _how_it_ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


@contextmanager
def device_group(devices: Sequence[torch.device], build: Build) -> Iterator[DeviceGroup]:
    """Start a process for each device after the first, and end them after the block.

    CPU processes share this one's cores, in and after the block's end for this process too as long as it lasts.

    Args:
        devices: of `check_devices`.
        build: builds the pipeline in the other processes.

    Raises:
        LostProcessError, or the error of another process: one could not start.
    """
    on_cpu = devices[0].type == "cpu"
    group = DeviceGroup(list(devices))
    context = mp.get_context("spawn")
    cores, threads = _cores(), torch.get_num_threads()
    share = len(cores) // len(devices) if on_cpu else len(cores)
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{Path(folder) / 'group'}"
        try:
            for rank, device in list(enumerate(devices))[1:]:
                ours, theirs = context.Pipe()
                own = cores[rank * share : (rank + 1) * share] if on_cpu else cores
                arguments = (rank, len(devices), address, str(device), own, build, theirs)
                process = context.Process(target=_serve, args=arguments, daemon=True)
                process.start()
                theirs.close()
                group.pipes.append(ours)
                group.processes.append(process)
            if on_cpu:
                _use(cores[:share])
            else:
                torch.cuda.set_device(devices[0])
            group.wait_until_built()
            _join(0, len(devices), address, on_cpu)
            yield group
        finally:
            group.close()
            if dist.is_initialized():
                dist.destroy_process_group()
            if on_cpu:
                _use(cores)
                torch.set_num_threads(threads)


def _use(cores: Sequence[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))


def _join(rank: int, size: int, address: str, on_cpu: bool) -> None:
    # gloo for predictions, which lie on the host. With nccl a sender may wait for its receiver at their first exchange.
    backend = "gloo" if on_cpu else "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=address, rank=rank, world_size=size, timeout=timedelta(seconds=START_S)
    )


def _serve(
    rank: int, size: int, address: str, device: str, cores: Sequence[int], build: Build, pipe: Connection
) -> None:
    """Take part in each run that the first process starts, until it says that there is none any more."""
    try:
        on_cpu = device == "cpu"
        _use(cores)
        if not on_cpu:
            torch.cuda.set_device(device)
        pipeline = build(device)
        pipe.send(("built", None))
        _join(rank, size, address, on_cpu)
        stages = SharedStages()
        while (parts := pipe.recv()) is not None:
            with torch.inference_mode():
                stages(pipeline, Clip(*parts))
            pipe.send(("done", _peak_bytes(torch.device(device))))
    except (EOFError, KeyboardInterrupt):
        os._exit(1)  # the first process is gone, or ends this one
    except Exception as error:
        kind = "MemoryError" if is_out_of_memory(error) else type(error).__name__
        with suppress(OSError):
            pipe.send((kind, (str(error).strip().splitlines() or ["no reason given"])[0]))
        os._exit(1)  # at once: the others would wait for it


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


__all__ = ["Build", "DeviceGroup", "check_devices", "device_group"]
