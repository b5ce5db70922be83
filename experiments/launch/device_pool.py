"""`sweep.devices`: runs of a sweep side by side, one at a time on each device, with cores of its own."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from omegaconf import DictConfig

from propainter.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """Hold a device for one run.

    Attributes:
        overrides: that put a run onto it.
        environment: that shows a run this device alone.
        cores: on which the run's processes may run.
    """

    overrides: tuple[str, ...]
    environment: dict[str, str]
    cores: frozenset[int]


def slots(devices: Sequence[str]) -> list[Slot]:
    """Return a slot for each device; the cores of this process are shared out evenly.

    Raises:
        InputError: no list of devices, one that is none, or more of them than cores.
    """
    given = list(devices) if not isinstance(devices, str) else []
    wrong = [name for name in given if name != "cpu" and not _is_gpu(name)]
    if not given or wrong:
        what = wrong[0] if wrong else devices
        raise InputError(f"sweep.devices has {what!r}; give a list such as [cuda:0,cuda:1]")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if len(given) > len(cores):
        raise InputError(f"sweep.devices has {len(given)} devices, and there are {len(cores)} CPU cores; give fewer")
    share = len(cores) // len(given)
    made = []
    for number, name in enumerate(given):
        own = frozenset(cores[number * share : (number + 1) * share])
        threads = {"OMP_NUM_THREADS": str(len(own))}
        if name == "cpu":
            made.append(Slot(("device=cpu",), threads, own))
        else:
            made.append(Slot(("device=cuda",), {**threads, "CUDA_VISIBLE_DEVICES": _visible(name)}, own))
    return made


def _is_gpu(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("cuda:") and name[5:].isdecimal()


def _visible(name: str) -> str:
    """Return what shows a GPU alone, by its number among those that are visible here."""
    number, visible = int(name[5:]), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(number)
    known = [one for one in visible.split(",") if one]
    if number >= len(known):
        raise InputError(f"sweep.devices has {name!r}, and CUDA_VISIBLE_DEVICES shows {len(known)} devices")
    return known[number]


def check_timed(cfg: DictConfig, devices: Sequence[str]) -> None:
    """Refuse timed runs side by side on one device: each would disturb the other.

    Raises:
        InputError: a device is given twice, and the run is timed.
    """
    twice = next((name for name in devices if list(devices).count(name) > 1), None)
    if twice is not None and cfg.measure.max_samples:
        raise InputError(
            f"sweep.devices has {twice} twice, and timed runs there would disturb each other; give it once, or "
            "measure=none"
        )


class DevicePool:
    """Start work as devices become free.

    Args:
        devices: as in `sweep.devices`.

    Raises:
        InputError: see `slots`.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = list(devices)
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for slot in slots(devices):
            self._free.put(slot)
        self._pool = ThreadPoolExecutor(len(self.devices), thread_name_prefix="device")
        self._stopping = threading.Event()
        self._futures: list[Future[None]] = []

    def submit(self, work: Callable[[Slot], None]) -> None:
        """Do the work with a slot of its own, once one is free."""
        self._futures.append(self._pool.submit(self._with_slot, work))

    def _with_slot(self, work: Callable[[Slot], None]) -> None:
        slot = self._free.get()
        try:
            if not self._stopping.is_set():
                work(slot)
        except KeyboardInterrupt:
            pass  # `check` stopped it
        finally:
            self._free.put(slot)

    def check(self) -> None:
        """End the present work, once `close` was interrupted; to be called now and then by the work.

        Raises:
            KeyboardInterrupt: it has to end.
        """
        if self._stopping.is_set():
            raise KeyboardInterrupt

    def close(self, interrupted: bool = False) -> None:
        """Wait for all work. Interrupted, end what runs and start no more.

        Args:
            interrupted: whether it is before the wait.

        Raises:
            KeyboardInterrupt: it was interrupted while it waited.
        """
        try:
            if interrupted:
                self._stopping.set()
            for future in self._futures:
                future.result()
        except BaseException:
            self._stopping.set()
            raise
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
