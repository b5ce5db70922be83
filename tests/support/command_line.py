"""The command line as a process: what every run of a test is given, and what it left."""

import functools
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


def picture_folder(folder: Path, count: int = 2, size: tuple[int, int] = (128, 128)) -> Path:
    """A new folder of noise, 0.png and so on; size is width and height in pixels."""
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def start_narrow(cwd: Path, *arguments: str) -> subprocess.Popen:
    """Start run.py with narrow networks."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, str(ROOT / "tests" / "support" / "narrow.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Where the tests run in the background, the shell has Ctrl-C ignored.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, cwd=cwd, env=environment, preexec_fn=heard, **pipes)


@dataclass
class Finished:
    """A run of the command line that has ended."""

    code: int
    out: str
    err: str
    folder: Path
    record: dict | None
    """What stands in record.json, of a single run."""

    @property
    def leftovers(self) -> list[Path]:
        """Temporary files that should not be there any more."""
        return [path for path in self.folder.rglob("*") if ".part" in path.name]


SMALLEST = ["data.num_frames=2", "data.height=128", "data.width=128", "schedule.raft_iterations=1"]
"""The sample at its smallest."""

CHEAP = [
    *("weights=seeded", "quality.lpips=false"),
    *("measure.min_samples=1", "measure.max_samples=1", "measure.max_warmups=0", "measure.flops=false"),
]
"""No download, one timed run."""
