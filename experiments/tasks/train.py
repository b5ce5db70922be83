"""`experiment=train`: train a network by a recipe; devices and processes by Lightning Fabric."""

import logging
import multiprocessing
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.errors import log_failure
from experiments.record.record import write_json
from experiments.record.stream_state import resume_command
from experiments.system.environment import choose_device, describe
from experiments.tasks.train_loop import clips_of, train
from experiments.tasks.train_networks import WEIGHTS, frozen_networks
from experiments.tasks.train_recipe import Recipe
from experiments.tasks.train_state import read_checkpoint
from propainter.errors import InputError
from variants import UnsupportedError

log = logging.getLogger(__name__)

RECORD = "training.json"
ENDED_BY = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""Statuses of a training that a signal ended."""

CLOSING_S = 60
"""Seconds that processes have to save after a signal."""


def run(cfg: DictConfig) -> str:
    """Train, and leave checkpoint, log, record and, at the end, weights in Hydra's run folder; return a status."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        recipe = Recipe.of(cfg.get("train"))
        device = choose_device(str(cfg.device))
        check_device(recipe, device)
        resume = cfg.resume is not None
        if resume:
            recipe.check_continues(read_checkpoint(folder)["recipe"])
        clips_of(recipe)
        weights: Any = OmegaConf.to_container(cfg.weights, resolve=True)
        frozen_networks(recipe, weights, torch.device("cpu"))  # what is wrong with them is said before processes start
        started = time.time()
        found = launch(recipe, device, weights, folder, resume)
        status = "ok" if found["complete"] else ENDED_BY.get(found["signal"], "failed")
        document = {"kind": "train", "schema": 1, "status": status, "started": started, "recipe": recipe.as_dict()}
        write_json(folder / RECORD, {**document, **found, "environment": describe(device)})
    except Exception as error:
        return log_failure(error)[0]
    if status == "ok":
        print(f"weights: {folder / WEIGHTS}")
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

    A signal to this process is passed on to those that it started, which save and end.
    """
    fabric = make_fabric(recipe, device)
    if recipe.devices == 1:
        fabric.launch()
        return train(fabric, recipe, weights, folder, resume)
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: (asked.append(number), _pass_on(number)))
    try:
        return fabric.launch(train, recipe, weights, folder, resume)
    except KeyboardInterrupt:
        _pass_on(signal.SIGINT)
        deadline = time.monotonic() + CLOSING_S
        for process in multiprocessing.active_children():
            process.join(max(0.0, deadline - time.monotonic()))
        saved = read_checkpoint(folder)
        return {"updates": saved["update_number"], "complete": False, "signal": signal.SIGINT}
    finally:
        signal.signal(signal.SIGTERM, before)


def _pass_on(number: int) -> None:
    for process in multiprocessing.active_children():
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)


def make_fabric(recipe: Recipe, device: torch.device) -> Any:
    """Return a Fabric for the recipe's precision and processes."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

    class InputsKept(MixedPrecision):
        """Autocast that leaves inputs in float32: a flow of 10 pixels in bfloat16 is off by up to 1/32 of a pixel."""

        def convert_input(self, data: Any) -> Any:
            return data

    mixed = {"bf16": "bf16-mixed", "fp16": "16-mixed"}.get(recipe.precision)
    options: dict[str, Any] = {"plugins": [InputsKept(mixed, device.type)]} if mixed else {"precision": "32-true"}
    if recipe.devices > 1:
        options["strategy"] = DDPStrategy(start_method="spawn")
    devices: Any = recipe.devices
    if device.type == "cuda" and recipe.devices == 1:
        devices = [device.index or 0]
    return Fabric(accelerator=device.type, devices=devices, **options)
