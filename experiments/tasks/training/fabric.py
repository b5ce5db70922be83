"""Lightning Fabric for a recipe: device, precision and processes. Import it lazily: the library is an extra."""

import logging
import logging.config
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import DDPStrategy

from experiments.errors import NonFiniteError
from experiments.tasks.training.loop import train
from experiments.tasks.training.recipe import Recipe

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

MIXED: dict[str, Any] = {"bf16": "bf16-mixed", "fp16": "16-mixed"}


class InputsKept(MixedPrecision):
    """Autocast that leaves inputs in float32: a flow of 10 pixels in bfloat16 is off by up to 1/32 of a pixel."""

    def convert_input(self, data: Any) -> Any:
        """Return the inputs as they are."""
        return data


def make_fabric(recipe: Recipe, device: torch.device) -> Fabric:
    """Return a Fabric for the recipe's precision and processes, not launched."""
    mixed = MIXED.get(recipe.precision)
    options: dict[str, Any] = {"plugins": [InputsKept(mixed, device.type)]} if mixed else {"precision": "32-true"}
    if recipe.devices > 1:
        # Spawned, not started as this command once more: Hydra would make each a run folder.
        options["strategy"] = DDPStrategy(start_method="spawn")
    devices: Any = recipe.devices
    if device.type == "cuda" and recipe.devices == 1:
        devices = [device.index or 0]
    return Fabric(accelerator=device.type, devices=devices, **options)


def train_process(
    fabric: Any, settings: dict[str, Any], weights: dict[str, Any], folder: str, resume: bool, logs: dict[str, Any]
) -> Any:
    """Train in one of several processes; return what `train` returns, or the message of a loss that is not finite.

    Args:
        logs: Hydra's `job_logging`; a spawned process starts without it.
    """
    logging.config.dictConfig(logs)
    # A depthwise kernel's gradient is laid out by its convolution; nothing is wrong, and users can't change it.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    try:
        return train(fabric, Recipe(**settings), weights, Path(folder), resume)
    except NonFiniteError as error:  # in all processes at once, since they log joined losses
        return {"non_finite": str(error)}
