"""What tests share: seeded networks, golden data, and the command line run as a process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.command_line import CHEAP, ROOT, Finished
from support.narrow import narrow_networks

from propainter import Networks, build_networks
from propainter.weights import load_seeded

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow tests last."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session", autouse=True)
def locks_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Timed runs of tests side by side do not wait for each other, nor for a user's."""
    os.environ["PROPAINTER_BENCH_LOCKS"] = str(tmp_path_factory.mktemp("locks"))


@pytest.fixture(scope="session")
def networks() -> Networks:
    """All three networks with the seeded weights; tests must not change them."""
    networks = build_networks()
    load_seeded(networks)
    return networks


@pytest.fixture(scope="session")
def narrow() -> Networks:
    """Networks of the published form and few channels, with seeded weights; tests must not change them."""
    return narrow_networks()


class Golden:
    """The golden data by name, as numpy arrays or as float tensors."""

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return dict(file)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value).float() for key, value in self.arrays(name).items()}

    def json(self, name: str) -> dict:
        return json.loads((GOLDEN / f"{name}.json").read_text())

    def frames(self, name: str, count: int) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        strip = np.asarray(Image.open(GOLDEN / f"{name}_frames.png"))
        return strip.reshape(count, -1, *strip.shape[1:])


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Finished]:
    """bench(*arguments) runs `python run.py` as a user would, cheaply, with its run folder and caches in tmp_path."""
    folder = tmp_path / "run"

    def run(*arguments: str, env: dict[str, str] | None = None, **popen: object) -> Finished:
        where = [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
        given = " ".join(arguments)
        own = [] if "hydra.run.dir" in given else where
        flags = [argument for argument in arguments if argument.startswith("-")]
        overrides = [argument for argument in arguments if argument not in flags]
        command = [sys.executable, str(ROOT / "run.py"), *flags, *CHEAP, *own, *overrides]
        caches = {"PROPAINTER_BENCH_CACHE": str(tmp_path / "cache"), "TORCH_HOME": str(tmp_path / "torch")}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=popen.pop("cwd", tmp_path),
            env={**os.environ, **caches, **(env or {})},
            timeout=600,
            **popen,
        )
        path = folder / "record.json"
        record = json.loads(path.read_text()) if path.exists() else None
        return Finished(done.returncode, done.stdout, done.stderr, folder, record)

    return run
