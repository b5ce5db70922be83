"""`experiment=train`: train a network by a recipe; devices and processes by Lightning Fabric."""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.errors import NonFiniteError, log_failure
from experiments.record.record import write_json
from experiments.record.stream_state import resume_command
from experiments.system.environment import choose_device, describe
from experiments.tasks.training.loop import clips_of, train
from experiments.tasks.training.networks import NETWORKS_FILE, WEIGHTS, build_network, frozen_networks
from experiments.tasks.training.recipe import Recipe
from experiments.tasks.training.state import read_checkpoint
from propainter.errors import InputError
from propainter.models.networks import SMALL
from variants import UnsupportedError

log = logging.getLogger(__name__)

RECORD = "training.json"
ENDED_BY = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""Statuses of a training that a signal ended."""


def run(cfg: DictConfig) -> str:
    """Train, and leave checkpoint, log, record and, at the end, weights in Hydra's run folder; return a status."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        recipe = Recipe.of(cfg.get("train"))
        device = choose_device(str(cfg.device))
        check_device(recipe, device)
        resume = cfg.resume is not None
        if resume:
            saved = read_checkpoint(folder)
            recipe.check_continues(saved["recipe"])
            if saved["update_number"] >= recipe.steps:
                print(f"the training in {folder} is complete: {saved['update_number']} updates; nothing to do")
                return "ok"
        weights: Any = OmegaConf.to_container(cfg.weights, resolve=True)
        if recipe.devices > 1:  # what is wrong with the inputs is said before processes start
            clips_of(recipe)
            build_network(recipe)
            frozen_networks(recipe, weights, torch.device("cpu"))
        started = time.time()
        found = launch(recipe, device, weights, folder, resume)
        status = "ok" if found["complete"] else ENDED_BY.get(found["signal"], "failed")
        document = {"kind": "train", "schema": 1, "status": status, "started": started, "recipe": recipe.as_dict()}
        write_json(folder / RECORD, {**document, **found, "environment": describe(device)})
    except Exception as error:
        return log_failure(error)[0]
    if status == "ok":
        print(f"weights: {folder / WEIGHTS}")
        if (folder / NETWORKS_FILE).exists():
            source = "small" if recipe.architecture == SMALL else "pretrained"
            print(f"all networks: weights={source} weights.file={folder / NETWORKS_FILE}")
    else:
        done = f"{found['updates']} of {recipe.steps} updates"
        log.warning("%s after %s, which are saved; %s does the rest", status, done, resume_command(folder))
    print(f"run folder: {folder}")
    return status


def check_device(recipe: Recipe, device: torch.device) -> None:
    """Check that the recipe's precision and processes are possible on this device, and its libraries are installed.

    Raises:
        InputError: there are fewer GPUs than processes, or a library is missing.
        UnsupportedError: the precision is not supported there.
    """
    missing = [name for name in ("lightning_fabric", "tensorboard") if find_spec(name) is None]
    if missing:
        raise InputError(f"training needs {missing[0]}; install it with pip install 'propainter-bench[training]'")
    if recipe.precision == "fp16" and device.type != "cuda":
        raise UnsupportedError(
            "train.precision=fp16 needs CUDA: convolutions in fp16 on the CPU take 30 to 100 times "
            "as long as in fp32; give bf16 or fp32"
        )
    if device.type == "cuda" and recipe.devices > torch.cuda.device_count():
        raise InputError(f"train.devices is {recipe.devices}, but torch sees {torch.cuda.device_count()}; give less")


def launch(recipe: Recipe, device: torch.device, weights: dict[str, Any], folder: Path, resume: bool) -> dict[str, Any]:
    """Run `train` in this process, or in as many as the recipe has devices; return what the first one found.

    Raises:
        NonFiniteError: a loss is NaN or infinite.
    """
    from experiments.tasks.training.fabric import make_fabric, train_process

    fabric: Any = make_fabric(recipe, device)
    if recipe.devices == 1:
        fabric.launch()
        return train(fabric, recipe, weights, folder, resume)
    with signals_passed_on():
        # Fabric looks through the arguments for tensors, and refuses a frozen dataclass.
        logs = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
        found = fabric.launch(train_process, recipe.as_dict(), weights, str(folder), resume, logs)
    if "non_finite" in found:
        raise NonFiniteError(found["non_finite"])
    return found


@contextmanager
def signals_passed_on() -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to the processes that this one started, inside the block; a second Ctrl-C ends all."""
    asked: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        again = len(asked) > 0 and number == signal.SIGINT
        asked.append(number)
        for process in multiprocessing.active_children():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGKILL if again else number)
        if again:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, pass_on) for number in ENDED_BY}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
