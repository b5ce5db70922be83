"""What a recipe trains: the network, its step, and the frozen networks that the step needs."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.data.weights import load_networks
from experiments.tasks.training.recipe import Recipe
from propainter.errors import InputError
from propainter.io.atomic import atomic_write
from propainter.io.paths import expand_home
from propainter.models.attention import PublishedWindowAttention, manual_attention
from propainter.models.networks import ARCHITECTURES, build_networks
from propainter.training.initialise import kaiming
from propainter.training.step import (
    CompletionStep,
    FlowSource,
    GeneratorStep,
    RaftStep,
    completed_flows,
    given_flows,
    raft_flows,
    true_flows,
)
from propainter.weights_file import empty_networks, save_networks

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.safetensors"
"""The trained network alone, in float32."""

NETWORKS_FILE = "networks.safetensors"
"""All networks of the architecture, in float16: `weights=small weights.file=...`."""

FROZEN = ("raft", "flow_completion")


def build_network(recipe: Recipe) -> nn.Module:
    """Return the network to train, with its first weights: those of `start`, else random ones drawn by the seed.

    Raises:
        InputError: the architecture is unknown or lacks the network, its widths make no sense, or `start` does not fit.
    """
    known = ARCHITECTURES.get(recipe.architecture)
    if known is None:
        raise InputError(f"train.architecture is {recipe.architecture!r}; give {' or '.join(ARCHITECTURES)}")
    if recipe.network not in known:
        raise InputError(f"the {recipe.architecture} architecture has no {recipe.network}; give {', '.join(known)}")
    torch.manual_seed(recipe.seed)
    try:
        networks = build_networks(recipe.architecture, **{recipe.network: dict(recipe.widths or {})})
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise InputError(
            f"train.widths is {dict(recipe.widths or {})}, which {recipe.network} can't be built of: {error}"
        ) from None
    network: nn.Module = getattr(networks, recipe.network)
    if not all(parameter.numel() for parameter in network.parameters()):
        raise InputError(f"train.widths is {dict(recipe.widths or {})}, which leaves layers empty; give widths above 0")
    if recipe.init == "kaiming":
        kaiming(network)
    if recipe.start is not None:
        load_state(network, trained_state(recipe.start, recipe.network, "train.start")[0], recipe.start)
    return network.train()


def load_state(network: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Load a state dict.

    Raises:
        InputError: it is of a network with other widths.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2]
        raise InputError(
            f"the weights in {path} are of other widths: {' '.join(first).strip()}; give matching ones"
        ) from None


def trained_state(path: str, network: str, option: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a trained network's state dict, and its architecture and widths.

    Args:
        path: a training's folder, or a file that `export` wrote.
        network: the network's name.
        option: that names the path, for the message.

    Raises:
        InputError: there is no such file, or it does not hold that network.
    """
    given = expand_home(path)
    file = given / WEIGHTS if given.is_dir() else given
    if not file.is_file():
        what = f"has no {WEIGHTS} yet: let that training end" if given.is_dir() else "is not there: check the path"
        raise InputError(f"{option} is {path}, which {what}")
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata() or {}
            names = [name for name in stored.keys() if name.startswith(f"{network}.")]  # noqa: SIM118
            state = {name.removeprefix(f"{network}."): stored.get_tensor(name).float() for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{option} is {path}: {file} can't be read as safetensors ({error}); train it again") from None
    if not state:
        raise InputError(f"{option} is {path}, which holds no {network}; give a training of that network")
    return state, {
        "architecture": metadata.get("architecture", "published"),
        "widths": json.loads(metadata.get("widths", "{}")),
    }


def export(path: Path, recipe: Recipe, state: Mapping[str, Tensor]) -> None:
    """Write the trained network's weights as safetensors in float32, atomically, with their architecture.

    Args:
        path: the file.
        recipe: the recipe.
        state: the network's state dict.
    """
    tensors = {f"{recipe.network}.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"architecture": recipe.architecture, "widths": json.dumps(dict(recipe.widths or {}))}
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata)


def export_all(path: Path, recipe: Recipe, state: Mapping[str, Tensor], frozen: Mapping[str, nn.Module]) -> bool:
    """Write all networks of the architecture in float16, which `weights.file` names, if they are at hand.

    Args:
        path: the file.
        recipe: the recipe.
        state: of the trained network.
        frozen: the others.

    Returns:
        Whether they are: none is missing, and all have the architecture's own widths.
    """
    networks = empty_networks(recipe.architecture)
    states = {name: network.state_dict() for name, network in frozen.items()} | {recipe.network: state}
    if not set(networks.names) <= set(states):
        return False
    try:
        for name in networks.names:
            getattr(networks, name).load_state_dict(states[name])
    except RuntimeError:  # other widths
        return False
    save_networks(networks, path, recipe=recipe.as_dict())
    return True


def frozen_networks(recipe: Recipe, weights: Mapping[str, Any], device: torch.device) -> dict[str, nn.Module]:
    """Return the networks that the step needs besides the one it trains, on the device, without gradients.

    Args:
        recipe: the recipe.
        weights: the config group `weights`, for what the recipe names no file of.
        device: where they run.

    Raises:
        InputError: a network can't be had.
    """
    needed = _frozen(recipe)
    frozen: dict[str, nn.Module] = {}
    if "flow_completion" in needed and recipe.flow_completion is not None:
        state, of = trained_state(recipe.flow_completion, "flow_completion", "train.flow_completion")
        frozen["flow_completion"] = build_networks(of["architecture"], flow_completion=of["widths"]).flow_completion
        load_state(frozen["flow_completion"], state, recipe.flow_completion)
        needed.remove("flow_completion")
    if needed:
        networks, loaded = load_networks(weights)
        if weights["source"] == "auto" and loaded.source != "pretrained":
            raise InputError(
                f"training needs a trained {' and '.join(needed)}, and the released weights could not be had: give "
                "weights=pretrained weights.dir=FOLDER, train.flow_completion=FOLDER, or train.data=synthetic with "
                "train.estimate=dis; for a trial weights=seeded"
            )
        for name in needed:
            network = getattr(networks, name)
            if network is None:
                raise InputError(f"these weights have no {name}; give weights=pretrained, or train.estimate=dis")
            frozen[name] = network
    return {name: network.to(device).eval().requires_grad_(False) for name, network in frozen.items()}


def _frozen(recipe: Recipe) -> list[str]:
    """Return the names of the frozen networks."""
    compares_flow = recipe.network in ("flow_completion", "raft")
    raft = recipe.estimate == "raft" or (compares_flow and recipe.data == "folder")
    return [name for name, wanted in zip(FROZEN, (raft, recipe.network == "generator"), strict=True) if wanted]


def build_step(recipe: Recipe, network: Any, frozen: Mapping[str, nn.Module]) -> nn.Module:
    """Return the step that trains the network; without a frozen completion the generator gets the estimated flow."""
    raft = (
        raft_flows(frozen["raft"], 20 if recipe.network == "raft" else recipe.raft_iterations)
        if "raft" in frozen
        else None
    )
    estimates: FlowSource = {"raft": raft, "dis": given_flows, "exact": true_flows}[recipe.estimate]  # type: ignore[assignment]
    targets: FlowSource = true_flows if recipe.data == "synthetic" else raft  # type: ignore[assignment]
    if recipe.network == "flow_completion":
        return CompletionStep(network, recipe.losses, estimates, targets)
    if recipe.network == "raft":
        return RaftStep(network, targets, recipe.raft_iterations)
    completion: Any = frozen.get("flow_completion")
    flows = estimates if completion is None else completed_flows(completion, estimates)
    kernel = F.scaled_dot_product_attention if recipe.attention == "sdpa" else manual_attention
    attention = PublishedWindowAttention(kernel)
    return GeneratorStep(network, flows, recipe.decode_references, attention)
