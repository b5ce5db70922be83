"""`precision`: the dtypes that the networks compute in."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.ops import deform_conv2d

from propainter import InputError
from propainter.inference.pipeline import Pipeline
from propainter.models.layers import DeformableAlignment
from variants import UnsupportedError, claims_published, needs_cuda
from variants.components import check_components, modules_of, wrap

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

TF32_BACKENDS: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn,
)
"""torch's backends that can round float32 to TF32; `fp32_precision` is "ieee", "tf32" or "none" (the default)."""

GENERATOR_STAGES = ("generation",)
ALL_STAGES = ("flow", "completion", "generation")
"""Stages with matrix products and convolutions: all but propagation."""

CAST_BY_AUTOCAST = (nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers that autocast runs in half precision, on every device."""


@claims_published
def fp32(pipeline: Pipeline) -> Pipeline:
    """Compute all in float32 with TF32 off; torch's flags are set around every stage and restored after it."""
    pipeline.contexts.append(lambda stage: tf32_flags(False))
    return pipeline


@needs_cuda
def tf32(pipeline: Pipeline) -> Pipeline:
    """Allow TF32 in CUDA's matrix products and convolutions; tensors stay float32.

    Raises:
        UnsupportedError: the device has no TF32.
    """
    device = pipeline.networks.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        raise UnsupportedError(f"TF32 needs a CUDA device of capability 8.0 or newer, not this {device.type} device")
    pipeline.contexts.append(lambda stage: tf32_flags(True))
    return pipeline


@needs_cuda
def half(pipeline: Pipeline) -> Pipeline:
    """Compute in float16 as published: RAFT in float32, the other networks and all data after RAFT by `.half()`.

    Raises:
        UnsupportedError: the networks are on the CPU.
    """
    fp32(pipeline)
    device = pipeline.networks.device
    if device.type == "cpu":
        raise UnsupportedError(
            "half precision on the CPU: convolutions and matrix products in fp16 are 30 to 100 times slower than in "
            "fp32 there, and deform_conv2d has no fp16; use precision=amp, which is bf16 on the CPU"
        )
    pipeline.networks.flow_completion.half()
    pipeline.networks.generator.half()
    pipeline.dtype = torch.float16
    return pipeline


def amp(
    pipeline: Pipeline, dtype: str | None = None, everything: bool = False, cast_weights_once: bool = False
) -> Pipeline:
    """Run generation under autocast, or every stage that has a network.

    Args:
        dtype: "float16" or "bfloat16"; None: float16 on CUDA, bfloat16 on the CPU.
        everything: whether RAFT and flow completion run under autocast too; else they stay in float32.
        cast_weights_once: whether to cast weights of convolutions and linear layers before the run. In inference mode
            autocast caches no cast and repeats it at each call, with the same result.

    Raises:
        InputError: `cast_weights_once` is neither true nor false.
    """
    if not isinstance(cast_weights_once, bool):
        raise InputError(f"precision.cast_weights_once is {cast_weights_once!r}; give true or false")
    fp32(pipeline)
    device = pipeline.networks.device
    chosen = autocast_dtype(device, dtype)
    stages = ALL_STAGES if everything else GENERATOR_STAGES
    if cast_weights_once:
        for name in pipeline.networks.names if everything else ("generator",):
            cast_weights(getattr(pipeline.networks, name), chosen)
    pipeline.effective["weights_cast"] = "once" if cast_weights_once else "at each call"

    def autocast(stage: str) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype=chosen) if stage in stages else nullcontext()

    pipeline.contexts.append(autocast)
    components = ("flow_completion", "feature_propagation") if everything else ("feature_propagation",)
    deform_in_fp32(pipeline, components)
    return pipeline


def half_all(pipeline: Pipeline, dtype: str | None = None) -> Pipeline:
    """Run RAFT and flow completion as `amp_all`, and the generator in half precision without autocast.

    Autocast computes norms in float32, and casts around them. Here features and tokens stay in half precision. Flows,
    sampling positions, frames and masks stay float32; the generator casts frames and masks once for each window.

    Args:
        dtype: "float16" or "bfloat16"; None: float16 on CUDA, bfloat16 on the CPU.
    """
    fp32(pipeline)
    device, networks = pipeline.networks.device, pipeline.networks
    chosen = autocast_dtype(device, dtype)
    for name in networks.names:
        if name != "generator":
            cast_weights(getattr(networks, name), chosen)
    cast_weights(networks.generator, chosen, nn.Module)
    pipeline.effective["weights_cast"] = "once"

    def autocast(stage: str) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype=chosen) if stage in ("flow", "completion") else nullcontext()

    pipeline.contexts.append(autocast)
    deform_in_fp32(pipeline, ("flow_completion",))
    deform_in_fp32(pipeline, ("feature_propagation",), _deform_conv_rounded)
    return pipeline


def cast_weights(network: nn.Module, dtype: torch.dtype, layers: type | tuple[type, ...] = CAST_BY_AUTOCAST) -> None:
    """Cast the weights of layers: by default of those that autocast runs in half precision, as it does at each call."""
    for layer in network.modules():
        if isinstance(layer, layers):
            for name, weight in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(weight.to(dtype), requires_grad=weight.requires_grad))


def per_component(pipeline: Pipeline, dtypes: Mapping[str, str | None]) -> Pipeline:
    """Run each component in its own dtype: autocast inside a component, float32 between components.

    Weights stay float32 and are cast at each use; batch norms stay float32.

    Args:
        dtypes: component -> "float32", "float16", "bfloat16", or null for float16 on CUDA and bfloat16 on the CPU.
    """
    fp32(pipeline)
    device = pipeline.networks.device
    for component in check_components(dtypes, "precision.dtypes"):
        if dtypes[component] == "float32":
            continue
        dtype = autocast_dtype(device, dtypes[component])
        for module in modules_of(pipeline.networks, component):
            wrap(module, autocast_inside(module.forward, device.type, dtype))
        deform_in_fp32(pipeline, [component])
    return pipeline


def autocast_dtype(device: torch.device, name: str | None) -> torch.dtype:
    """Return the dtype of that name, or the device's default half precision.

    Raises:
        InputError: the name is no half precision.
        UnsupportedError: float16 on the CPU.
    """
    name = name or ("float16" if device.type == "cuda" else "bfloat16")
    if name not in ("float16", "bfloat16"):
        raise InputError(f"precision asks for {name!r}; give float16 or bfloat16 (float32 in per_component only)")
    if name == "float16" and device.type == "cpu":
        raise UnsupportedError("autocast to float16 on the CPU: 30 to 100 times slower than fp32 there; give bfloat16")
    return DTYPES[name]


def autocast_inside(forward: Callable[..., Any], device_type: str, dtype: torch.dtype) -> Callable[..., Any]:
    """Return the forward under autocast, with its floating-point outputs cast back to float32."""

    @wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype=dtype):
            output = forward(*args, **kwargs)
        return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, output)

    return wrapped


def deform_in_fp32(
    pipeline: Pipeline, components: tuple[str, ...] | list[str], convolution: Callable[..., Tensor] | None = None
) -> None:
    """Run the components' deformable convolutions in float32: they have no bfloat16, and no float16 on the CPU.

    Under CUDA's autocast torchvision does the same by itself. `effective["ops_in_fp32"]` gets an entry.
    """
    for component in components:
        for module in modules_of(pipeline.networks, component):
            for part in module.modules():
                if isinstance(part, DeformableAlignment):
                    part.deform_conv = convolution or _deform_conv_fp32
                    stats = pipeline.effective.setdefault("ops_in_fp32", {})
                    stats[f"{component}.deform_conv2d"] = "no autocast kernel in half precision"


def _deform_conv_fp32(x: Tensor, offset: Tensor, weight: nn.Parameter, bias: Tensor, **options: Any) -> Tensor:
    options = {name: value.float() if isinstance(value, Tensor) else value for name, value in options.items()}
    with torch.autocast(x.device.type, enabled=False):
        return deform_conv2d(x.float(), offset.float(), weight.float(), bias.float(), **options)


def _deform_conv_rounded(x: Tensor, *args: Any, **options: Any) -> Tensor:
    """Compute in float32, and return x's dtype: outside autocast the next layer takes no other."""
    return _deform_conv_fp32(x, *args, **options).to(x.dtype)


@contextmanager
def tf32_flags(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in CUDA's matrix products and convolutions inside the block."""
    before = [backend.fp32_precision for backend in TF32_BACKENDS]
    for backend in TF32_BACKENDS:
        backend.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        for backend, value in zip(TF32_BACKENDS, before, strict=True):
            backend.fp32_precision = value
