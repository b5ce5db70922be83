"""Find the choices of other groups that a component computed outside torch would ignore."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import nn

from propainter.inference.interfaces import predict_per_window
from propainter.inference.pipeline import Pipeline
from propainter.models.attention import PublishedWindowAttention, manual_attention
from propainter.models.flow_completion import unbatched
from propainter.models.layers import align, deform_conv2d
from propainter.models.raft import ClipFlow, Correlation
from propainter.models.warp import warp
from variants.components import is_wrapped, modules_of
from variants.correlation import AllPairs
from variants.precision import TF32_BACKENDS

STAGE_OF = {"raft": "flow", "flow_completion": "completion"}
"""The stage that calls a component; all others are called in generation."""

REPLACEABLE = {"align": align, "deform_conv": deform_conv2d, "warp": warp, "frame_batcher": unbatched}
"""What variants put in place of a module's own attribute, with the published one."""


def ignored(pipeline: Pipeline, component: str) -> str | None:
    """Return which choice a component computed as published would ignore, in a clause with what to do; None without."""
    out = f"or leave {component} out of runtime.components"
    stage = STAGE_OF.get(component, "generation")
    if component == "raft":
        estimator = pipeline.flow_estimator
        if type(estimator) is not ClipFlow:
            return f"another group's way of estimating flow would be ignored; give reuse=none, {out}"
        if not _as_published(estimator.correlation):
            return f"correlation or kernels would be ignored; give correlation=all_pairs kernels=torch, {out}"
    if component == "transformer":
        attention = pipeline.window_attention
        kernel = getattr(attention, "kernel", None)
        if type(attention) is not PublishedWindowAttention or kernel is not manual_attention:
            return f"the choice of attention would be ignored; give attention=manual reuse=none, {out}"
    if stage == "generation" and pipeline.predictor is not predict_per_window:
        return f"reuse of the generator would be ignored; give reuse=none, {out}"
    if pipeline.dtype != torch.float32 or _autocast(pipeline, stage) or _half(pipeline, component):
        return f"the choice of precision would be ignored; give precision=fp32, {out}"
    if _quantized(pipeline, component) or component in pipeline.compiled_components:
        return f"quantization would be ignored; give quantization=none, {out}"
    if _changed(pipeline, component):
        return (
            "kernels, reuse or precision of its layers would be ignored; give kernels=torch reuse=none precision=fp32, "
            + out
        )
    return None


def _as_published(correlation: Callable[[], Correlation] | None) -> bool:
    """Return whether a correlation is torchvision's, or one that only reports its memory."""
    if not isinstance(correlation, partial):
        return correlation is None
    return correlation.func is AllPairs and "windows" not in correlation.keywords


def _autocast(pipeline: Pipeline, stage: str) -> bool:
    """Return whether a stage runs under autocast or allows TF32."""
    with ExitStack() as stack:
        for context in pipeline.contexts:
            stack.enter_context(context(stage))
        device = pipeline.networks.device.type
        tf32 = device == "cuda" and any(backend.fp32_precision == "tf32" for backend in TF32_BACKENDS)
        return torch.is_autocast_enabled(device) or tf32


def _half(pipeline: Pipeline, component: str) -> bool:
    modules = modules_of(pipeline.networks, component)
    return any(x.dtype in (torch.float16, torch.bfloat16) for module in modules for x in module.parameters())


def _quantized(pipeline: Pipeline, component: str) -> bool:
    """Return whether a weight is of another class than torch's own, as those that torchao makes."""
    modules = modules_of(pipeline.networks, component)
    return any(type(x) is not nn.Parameter for module in modules for x in module.parameters())


def _changed(pipeline: Pipeline, component: str) -> bool:
    """Return whether a layer of the component computes something else than its class."""
    for module in modules_of(pipeline.networks, component):
        for part in module.modules():
            if is_wrapped(part):
                return True
            if any(getattr(part, name, usual) is not usual for name, usual in REPLACEABLE.items()):
                return True
            if "decode" in vars(part) or "stem" in vars(part):
                return True
    return False
