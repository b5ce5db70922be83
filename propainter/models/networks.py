"""The networks by architecture, weights under the released names, and seeded weights (docs/model.md, section 7)."""

import math
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from propainter.errors import InputError
from propainter.models.flow_completion import FlowCompletion
from propainter.models.generator import Generator
from propainter.models.lazy_torchvision import raft as blocks
from propainter.models.raft import build_raft, published_state_dict, without_prefix

NETWORKS = ("raft", "flow_completion", "generator")
"""Names of all networks; an architecture may have fewer."""

PUBLISHED = "published"
"""The architecture of the released weights."""

SMALL = "small"
"""This project's own architecture: the same classes with narrower widths, and no RAFT."""

ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    PUBLISHED: {"raft": {}, "flow_completion": {}, "generator": {}},
    SMALL: {
        "flow_completion": {"channels": 8, "state_limit": 5.0, "residual": True},
        "generator": {"channels": 32, "hidden": 128, "depth": 4, "mlp_hidden": 245, "residual": True},
    },
}
"""Constructor arguments that differ from the published ones, by architecture and network."""

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "raft": build_raft,
    "flow_completion": FlowCompletion,
    "generator": Generator,
}
_COMPUTED = "valid_ind_rolled"
_COUNTER = "num_batches_tracked"

# The seeded rule: gain of a weight by the end of its name, 1 by default. The gains keep flow, offsets and output in the
# range of the trained networks.
_GAINS = {
    "update_block.flow_head.conv2.weight": 0.08,
    "conv_offset.6.weight": 0.1,
    "upsample.2.conv.weight": 0.5,
    "decoder.6.weight": 0.05,
    "mlp.fc2.1.weight": 0.5,
    "attention.proj.weight": 0.5,
}


@dataclass
class Networks:
    """Hold RAFT, the flow completion network and the generator; a network that the architecture lacks is None."""

    raft: blocks.RAFT
    flow_completion: FlowCompletion
    generator: Generator
    architecture: str = PUBLISHED

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the networks that are there."""
        return tuple(name for name in NETWORKS if getattr(self, name) is not None)

    def to(self, *args: Any, **kwargs: Any) -> "Networks":
        """Move all networks as `nn.Module.to` does. Return self."""
        for name in self.names:
            getattr(self, name).to(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device:
        """Return the networks' device."""
        return next(getattr(self, self.names[0]).parameters()).device


def networks_of(architecture: str) -> tuple[str, ...]:
    """Return the names of an architecture's networks.

    Raises:
        InputError: no architecture has this name.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"unknown architecture {architecture!r}; give one of {', '.join(ARCHITECTURES)}")
    return tuple(ARCHITECTURES[architecture])


def build_networks(
    architecture: str = PUBLISHED,
    *,
    raft: Mapping[str, Any] | None = None,
    flow_completion: Mapping[str, Any] | None = None,
    generator: Mapping[str, Any] | None = None,
) -> Networks:
    """Build the networks with random weights, in eval mode, float32, on the CPU.

    Args:
        architecture: "published" or "small".
        raft: constructor arguments of the network that differ from the architecture's.
        flow_completion: the same.
        generator: the same.

    Raises:
        InputError: no architecture has this name, or it lacks a network whose arguments are given.
    """
    given = {"raft": raft, "flow_completion": flow_completion, "generator": generator}
    for name in given.keys() - set(networks_of(architecture)):
        if given[name] is not None:
            raise InputError(f"arguments are given for {name}, which the {architecture} architecture has not")
    built = {
        name: _BUILDERS[name](**{**arguments, **(given[name] or {})}).eval()
        for name, arguments in ARCHITECTURES[architecture].items()
    }
    return Networks(**{**dict.fromkeys(NETWORKS), **built}, architecture=architecture)  # type: ignore[arg-type]


def published_state(networks: Networks, network: str) -> dict[str, Tensor]:
    """Return one network's state dict under the released checkpoint's names, RAFT's without "module.".

    Raises:
        InputError: the architecture has no such network.
    """
    if network not in networks.names:
        raise _lacks(networks.architecture, networks.names, network)
    module = getattr(networks, network)
    return published_state_dict(module) if network == "raft" else module.state_dict()


def _lacks(architecture: str, names: tuple[str, ...], network: str) -> InputError:
    if network not in NETWORKS:
        return InputError(f"unknown network {network!r}; give one of {', '.join(names)}")
    return InputError(f"the {architecture} architecture has no {network} network; give one of {', '.join(names)}")


def load_weights(
    networks: Networks,
    *,
    raft: Mapping[str, Tensor] | None = None,
    flow_completion: Mapping[str, Tensor] | None = None,
    generator: Mapping[str, Tensor] | None = None,
) -> Networks:
    """Load state dicts with the released checkpoints' names: all of the given ones, or nothing.

    Args:
        networks: the networks to fill.
        raft: state dict, with or without the prefix "module."; None leaves the network as it is.
        flow_completion: state dict, or None.
        generator: state dict, or None. Its index buffers (`valid_ind_rolled`) may be missing. Present ones must equal
            the computed ones.

    Returns:
        `networks`.

    Raises:
        InputError: tensors are missing, unexpected, of another shape, not finite or contradictory. The message names
            the first ones.
    """
    given = {"raft": raft, "flow_completion": flow_completion, "generator": generator}
    checked = {name: _checked(networks, name, state) for name, state in given.items() if state is not None}
    for name, state in checked.items():
        for key, target in published_state(networks, name).items():
            if key in state:
                target.copy_(state[key])
    return networks


def _checked(networks: Networks, network: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if network == "raft":
        state = without_prefix(state)
    expected = published_state(networks, network)
    missing = [name for name in expected if name not in state and not name.endswith(_COMPUTED)]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if not any(wrong.values()):
        wrong = {
            "not finite": [n for n, x in state.items() if x.is_floating_point() and not _is_finite(x)],
            "another index than this architecture's": [
                n for n in expected if n.endswith(_COMPUTED) and n in state and not state[n].equal(expected[n].cpu())
            ],
            "unequal to its twin": [
                n
                for n in state
                if "downsample.1." in n and not state[n].equal(state[n.replace("downsample.1.", "norm3.")])
            ],
        }
    found = "; ".join(f"{len(names)} {what} ({_few(names)})" for what, names in wrong.items() if names)
    if found:
        published = networks.architecture == PUBLISHED
        of = f"the {network} network" if published else f"the {networks.architecture} architecture's {network} network"
        give = "the released checkpoint of that network" if published else "weights of that architecture"
        raise InputError(f"these are not weights of {of}: {found}; give {give}")
    return dict(state)


def _is_finite(x: Tensor) -> bool:
    # The sum is faster. A finite sum proves finite terms; an infinite one may only be an overflow.
    return bool(x.sum().isfinite() or x.isfinite().all())


def _few(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def seeded_state_dict(network: str, salt: str = "golden", architecture: str = PUBLISHED) -> dict[str, Tensor]:
    """Draw reproducible, well conditioned weights, seeded by each tensor's name (docs/model.md, section 7).

    Seeded weights replace released ones that cannot be downloaded. Every computation stays the same. The picture in the
    hole is another.

    Args:
        network: "raft", "flow_completion" or "generator".
        salt: another salt gives other weights.
        architecture: "published" or "small".

    Returns:
        Published names to float32 tensors (int64 for batch counters), without the computed index buffers.

    Raises:
        InputError: no architecture has this name, or it has no such network.
    """
    names = networks_of(architecture)
    if network not in names:
        raise _lacks(architecture, names, network)
    with torch.device("meta"):
        module = _BUILDERS[network](**ARCHITECTURES[architecture][network])
    shapes = published_state_dict(module) if network == "raft" else module.state_dict()
    drawn = {
        name: torch.zeros(tensor.shape, dtype=torch.int64 if name.endswith(_COUNTER) else torch.float32)
        for name, tensor in shapes.items()
        if not name.endswith(_COMPUTED)
    }
    # numpy draws without the interpreter's lock, so threads help. Their buffers are allocated here: glibc keeps memory
    # that another thread has freed, 200 MiB in this case, and a later peak would not show it.
    workers = min(8, 2 * (os.cpu_count() or 1))
    workspaces: SimpleQueue[np.ndarray] = SimpleQueue()
    for _ in range(workers):
        workspaces.put(np.empty(max(tensor.numel() for tensor in drawn.values())))

    def draw(name: str) -> None:
        workspace = workspaces.get()
        try:
            fill_seeded(drawn[name], name, salt, workspace)
        finally:
            workspaces.put(workspace)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(draw, (name for name in drawn if not name.endswith(_COUNTER))))
    return drawn


def fill_seeded(weight: Tensor, name: str, salt: str, workspace: np.ndarray | None = None) -> None:
    """Fill a float32 weight on the CPU, in place, by the seeded rule (docs/model.md, section 7).

    Args:
        weight: the tensor to fill.
        name: the tensor's published name.
        salt: prefix of the seed.
        workspace: float64 [n] with n of at least the weight's size; None allocates one.
    """
    if workspace is None:
        workspace = np.empty(weight.numel())
    canonical = name.replace("downsample.1.", "norm3.")
    random = np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{canonical}".encode())))
    z = workspace[: weight.numel()].reshape(weight.shape)
    random.standard_normal(out=z)
    if name.endswith("running_mean"):
        z *= 0.1
    elif name.endswith("running_var"):
        np.abs(z, out=z)
        z *= 0.1
        z += 1
    elif name.endswith("pool_layer.weight"):
        z *= 0.1
        z += 1
        z /= 16
    elif name.endswith("bias"):
        z *= 0.02
    elif z.ndim == 1:
        z *= 0.1
        z += 1
    else:
        z *= next((gain for end, gain in _GAINS.items() if name.endswith(end)), 1.0)
        z *= math.sqrt(2 / math.prod(z.shape[1:]))
    np.copyto(weight.numpy(), z, casting="same_kind")
