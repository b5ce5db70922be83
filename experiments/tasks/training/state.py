"""The state of a training: one update, and what a checkpoint holds."""

import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from experiments.tasks.training.networks import CHECKPOINT, build_network, build_step
from experiments.tasks.training.recipe import Recipe
from propainter.errors import InputError
from propainter.io.atomic import atomic_write
from propainter.training.checkpointing import apply_checkpointing
from propainter.training.deform_conv import use_sampled_deform_conv
from propainter.training.discriminator import Discriminator
from propainter.training.losses import hinge_generator, hinge_real_fake
from propainter.training.step import Batch, Losses, weighted_sum

log = logging.getLogger(__name__)


class Training:
    """Network, optimiser, schedule, moving average and perhaps a discriminator, on a Fabric's device.

    Args:
        fabric: lightning_fabric's `Fabric`, launched.
        recipe: the recipe.
        frozen: see `frozen_networks`.
        resume: whether a checkpoint is loaded next: the recipe's first weights are not read then.

    Attributes:
        network: that is trained, not wrapped.
        update_number: of the next update: so many are done.
    """

    def __init__(self, fabric: Any, recipe: Recipe, frozen: dict[str, nn.Module], resume: bool = False) -> None:
        self.fabric, self.recipe = fabric, recipe
        self.network = build_network(replace(recipe, start=None) if resume else recipe)
        self.average = None
        if recipe.ema is not None:
            self.average = AveragedModel(self.network, multi_avg_fn=averaging(recipe.ema)).to(fabric.device)
        apply_checkpointing(self.network, recipe.checkpointing)
        if fabric.device.type == "cpu":  # torchvision's own kernel keeps less memory, and is fast on CUDA
            use_sampled_deform_conv(self.network)
        step = build_step(recipe, self.network, frozen).train()
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimizer = self._optimizer(parameters)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.learning_rate_factor)
        self.step, self.optimizer = fabric.setup(step, optimizer)
        self.update_number = 0
        self.seconds = 0.0
        self.critic: Any = None
        if recipe.discriminator_from is not None:
            torch.manual_seed(recipe.seed + 1)
            self.plain_critic = Discriminator()
            critic_optimizer = self._optimizer(list(self.plain_critic.parameters()))
            self.critic_schedule = torch.optim.lr_scheduler.LambdaLR(critic_optimizer, recipe.learning_rate_factor)
            self.critic, self.critic_optimizer = fabric.setup(self.plain_critic, critic_optimizer)

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        recipe = self.recipe
        betas = recipe.betas[0], recipe.betas[1]
        if recipe.optimizer == "adam":
            return torch.optim.Adam(parameters, recipe.learning_rate, betas)
        return torch.optim.AdamW(parameters, recipe.learning_rate, betas, weight_decay=recipe.weight_decay)

    def update(self, batch: Batch) -> Losses:
        """Make one update; return its losses without weights, and their weighted sum as total; no gradient."""
        output = self.step(batch)
        losses, composite, truth = output if isinstance(output, tuple) else (output, None, None)
        adversarial = self.critic is not None and self.update_number >= (self.recipe.discriminator_from or 0)
        if adversarial:
            losses["discriminator"] = self._judge(truth, composite)
            # Through the plain module: the discriminator's own gradients are not wanted, nor joined over processes.
            self.plain_critic.requires_grad_(False)
            with self.fabric.autocast():
                losses["adversarial"] = hinge_generator(self.plain_critic(composite).float())
            self.plain_critic.requires_grad_(True)
        total = weighted_sum(losses, self.recipe.losses)
        self._descend(total, self.step, self.optimizer)
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.update_number += 1
        return {name: value.detach() for name, value in {**losses, "total": total}.items()}

    def _judge(self, truth: Tensor, composite: Tensor) -> Tensor:
        # In one call: between two, several processes would exchange the spectral norm's buffers.
        real, fake = self.critic(torch.cat([truth, composite.detach()])).chunk(2)
        loss = hinge_real_fake(real.float(), fake.float())
        self._descend(loss, self.critic, self.critic_optimizer)
        self.critic_schedule.step()
        return loss

    def _descend(self, loss: Tensor, module: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.recipe.clip_norm is not None:
            self.fabric.clip_gradients(module, optimizer, max_norm=self.recipe.clip_norm, error_if_nonfinite=False)
        optimizer.step()

    def weights(self) -> dict[str, Tensor]:
        """Return the network's state dict: of the moving average where there is one."""
        return self.network.state_dict() if self.average is None else self.average.module.state_dict()

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}
        if self.average is not None:
            parts["average"] = self.average
        if self.critic is not None:
            critic = {"critic": self.plain_critic, "critic_optimizer": self.critic_optimizer}
            parts |= {**critic, "critic_schedule": self.critic_schedule}
        return parts | {"precision": self.fabric.strategy.precision}

    def save(self, folder: Path) -> None:
        """Write the checkpoint, atomically: a stop at any time leaves the one before, or this one."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"recipe": self.recipe.as_dict(), "update_number": self.update_number, "seconds": self.seconds}
        state["rng"] = torch.get_rng_state()
        with atomic_write(folder / CHECKPOINT) as partial, partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    def load(self, folder: Path) -> None:
        """Go on from the checkpoint in this folder.

        Raises:
            InputError: there is none, it is damaged, or of another recipe.
        """
        state = read_checkpoint(folder)
        self.recipe.check_continues(state["recipe"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.update_number, self.seconds = state["update_number"], state["seconds"]
        torch.set_rng_state(state["rng"])


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return what `Training.save` wrote, on the CPU.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise InputError(f"{folder} holds no {CHECKPOINT}: the training was stopped before its first; begin it anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "update_number" not in state:
            raise ValueError("it is no training's")
        return state
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, BadZipFile, pickle.UnpicklingError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} can't be read ({first}); begin the training anew") from None


def averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return an update of a moving average with that decay, smaller in the first updates: (1 + n) / (10 + n)."""

    @torch.no_grad()
    def update(averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        n = float(count)
        torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + n) / (10 + n)))

    return update
