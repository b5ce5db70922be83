"""The parts of the networks that precision and compilation choose among, and how a variant wraps a module."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from propainter import InputError, Networks, Pipeline
from propainter.models.lazy_torchvision import raft as blocks

log = logging.getLogger(__name__)

COMPONENTS = ("raft", "flow_completion", "encoder", "feature_propagation", "transformer", "decoder")


def modules_of(networks: Networks, component: str) -> list[nn.Module]:
    """Return the modules that do a component's work, none of a network that is not there.

    Each is called from outside the component.
    """
    raft, generator = networks.raft, networks.generator
    modules: dict[str, list[nn.Module]] = {
        "raft": []
        if raft is None
        else [raft.feature_encoder, raft.context_encoder, raft.update_block, raft.mask_predictor],
        "flow_completion": [networks.flow_completion],
        "encoder": [generator.encoder],
        "feature_propagation": [generator.feat_prop_module],
        "transformer": [generator.ss, generator.transformers, generator.sc],
        "decoder": [generator.decoder],
    }
    return modules[component]


NO_RAFT = "ignored: no RAFT estimates the flow"
"""Report of an option, or a part of one, that concerns RAFT, in a pipeline without it."""


def raft_of(pipeline: Pipeline, option: str | None) -> blocks.RAFT | None:
    """Return the pipeline's RAFT; None where it has none, and log that an option, or a part of one, is ignored.

    Args:
        option: for the log; None for published behaviour, which is no choice that anybody could miss.
    """
    raft = pipeline.networks.raft
    if raft is None and option is not None:
        log.info("%s is ignored: it concerns RAFT, and this pipeline's flow is estimated without RAFT", option)
    return raft


def check_components(names: Iterable[str], option: str) -> list[str]:
    """Return the names, if all of them are components.

    Raises:
        InputError: a name is no component; the message has the name and the option.
    """
    names = list(names)
    unknown = [name for name in names if name not in COMPONENTS]
    if unknown:
        raise InputError(f"{option} names {unknown[0]!r}; give some of {', '.join(COMPONENTS)}")
    return names


def refuse_outside_torch(pipeline: Pipeline, components: Iterable[str], group: str) -> None:
    """Check that torch computes these components.

    Args:
        group: the option that changes how torch computes them, for the message.

    Raises:
        InputError: another runtime computes one of them.
    """
    for name in components:
        if runtime := pipeline.outside_torch.get(name):
            raise InputError(
                f"runtime={runtime} computes {name}, and {group} would be ignored there; leave {name} out of "
                f"runtime.components, or give {group}=none"
            )


def wrap(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Let a module compute by another forward. Variants wrap modules by this function alone."""
    module.forward = forward


def is_wrapped(module: nn.Module) -> bool:
    """Return whether the module computes something else than its class: compiled, under autocast, or by a kernel.

    A variant that does a module's work by the module's layers has to ask this first.
    """
    return "forward" in vars(module) or getattr(module, "_compiled_call_impl", None) is not None
