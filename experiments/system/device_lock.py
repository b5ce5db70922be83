"""One timed run at a time on a device, whoever starts it."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

FOLDER = "PROPAINTER_BENCH_LOCKS"
"""Environment variable: the folder of the locks, in place of one in the system's folder for temporary files."""


@contextmanager
def device_lock(device: torch.device) -> Iterator[None]:
    """Hold a device for the block, once no other process holds it; a wait is said in a warning.

    Where the lock can't be written the block runs without it, which a warning says.
    """
    path = _folder() / f"{_name(device)}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, mode=0o666)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("waiting for %s, on which another run is timed", device)
            lock.acquire()
    except OSError as error:
        log.warning("no lock on %s, where another run may be timed at once: %s", device, error)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _folder() -> Path:
    given = os.environ.get(FOLDER)
    return Path(given) if given else Path(tempfile.gettempdir()) / "propainter-bench-locks"


def _name(device: torch.device) -> str:
    """Return a name that is the same in all processes: of a GPU its UUID, since its number depends on what is shown."""
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return f"cuda-{getattr(properties, 'uuid', device.index or 0)}"
