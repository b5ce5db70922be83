"""`quantization`: layers in 8 bits, by torchao: the transformer's linear layers, or encoder and decoder as a whole."""

import copy
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import propainter
from propainter.errors import InputError
from propainter.export.files import exporting
from propainter.fingerprint import source_fingerprint
from propainter.inference.pipeline import Pipeline
from propainter.io.disk_cache import DiskLRUCache
from propainter.validation import above_0, check_number, check_whole
from propainter.weights_file import fingerprint
from variants import UnsupportedError, needs_cuda
from variants.compile import COMPILED, falling_back
from variants.components import is_wrapped, modules_of, wrap

log = logging.getLogger(__name__)

STATIC = ("encoder", "decoder")
"""Components that `int8_static` knows: convolutions alone, each called with one tensor."""

SIZE = (240, 432)
"""Height and width of the calibration's clips in pixels."""

SMALLEST = 32
"""Smallest side of what a component takes: features of a frame of 128 pixels."""

FRAMES = 6
"""Frames of each of them."""


def int8_weight_only(pipeline: Pipeline) -> Pipeline:
    """Keep the weights of the transformer's linear layers in int8, a scale for each row; products in float.

    `effective["quantization"]` has `kind`, torchao's version, number of `layers` in 8 bits and of those that torchao
    `left` as they were, and all weights' bytes before and after.

    Raises:
        InputError: another group has changed these layers.
        UnsupportedError: torchao is not installed.
    """
    return _linear_layers(pipeline, "int8_weight_only", lambda ao: ao.Int8WeightOnlyConfig(set_inductor_config=False))


def int8_dynamic(pipeline: Pipeline) -> Pipeline:
    """Compute the transformer's linear layers in int8: activations are rounded at each call, a scale for each token.

    Report and errors are those of `int8_weight_only`.
    """
    return _linear_layers(
        pipeline,
        "int8_dynamic",
        lambda ao: ao.Int8DynamicActivationInt8WeightConfig(
            set_inductor_config=False, reduce_range=_reduces_range(pipeline.networks.device)
        ),
    )


@needs_cuda
def float8(pipeline: Pipeline) -> Pipeline:
    """Compute the transformer's linear layers in float8 (e4m3), with a scale for each tensor.

    Report and errors are those of `int8_weight_only`.

    Raises:
        UnsupportedError: the device is no CUDA device of capability 8.9 or newer.
    """
    device = pipeline.networks.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise UnsupportedError(
            f"quantization=float8 needs a CUDA device of capability 8.9 or newer, not this {device.type} device; "
            "give quantization=int8_weight_only"
        )
    return _linear_layers(
        pipeline,
        "float8",
        # A scale for each tensor: those for rows want bfloat16 weights.
        lambda ao: ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerTensor(), set_inductor_config=False),
    )


def _linear_layers(pipeline: Pipeline, kind: str, config: Callable[[Any], Any]) -> Pipeline:
    _installed()
    layers = [
        layer
        for module in modules_of(pipeline.networks, "transformer")
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
    containers = [part for module in modules_of(pipeline.networks, "transformer") for part in module.modules()]
    if any(is_wrapped(part) for part in containers):
        raise InputError(
            f"quantization={kind} changes linear layers that another group computes its own way; give kernels=torch "
            "and precision other than per_component"
        )
    if _autocast(pipeline):
        raise InputError(
            f"quantization={kind} under autocast would be undone: autocast casts the weights to half precision; give "
            "precision=fp32 or half_all"
        )
    import torchao.quantization as ao

    before = sum(layer.weight.nbytes for layer in layers)
    for layer in layers:
        ao.quantize_(layer, config(ao))
    left = sum(type(layer.weight) is nn.Parameter for layer in layers)
    if left == len(layers):
        raise UnsupportedError(f"quantization={kind}: torchao {version('torchao')} changed none of the linear layers")
    if left:
        log.warning("quantization=%s leaves %d of %d linear layers as they were", kind, left, len(layers))
    pipeline.effective["quantization"] = {
        **{"kind": kind, "torchao": version("torchao"), "layers": len(layers) - left, "left": left},
        **{"before_bytes": before, "after_bytes": sum(_bytes_of(layer.weight) for layer in layers)},
    }
    return pipeline


def _installed() -> None:
    if find_spec("torchao") is None:
        raise UnsupportedError("torchao is not installed: pip install 'propainter-bench[quantization]'")


def _autocast(pipeline: Pipeline) -> bool:
    with ExitStack() as stack:
        for context in pipeline.contexts:
            stack.enter_context(context("generation"))
        return torch.is_autocast_enabled(pipeline.networks.device.type)


def _bytes_of(weight: Tensor) -> int:
    names, _ = weight.__tensor_flatten__() if hasattr(weight, "__tensor_flatten__") else ([], None)
    parts = [getattr(weight, name) for name in names] or [weight]
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))


def _reduces_range(device: torch.device) -> bool:
    """Return whether int8 products may overflow: on processors without VNNI, which then get 7 bits."""
    from torchao.utils import should_reduce_range

    return bool(should_reduce_range(device))


def int8_static(
    pipeline: Pipeline,
    components: Sequence[str] = STATIC,
    clips: int = 4,
    folder: str | Path = "~/.cache/propainter-bench/quantized",
    max_gb: float = 1,
) -> Pipeline:
    """Compute encoder and decoder in int8 with fixed scales, compiled by torch.compile for an x86 processor.

    The scales come from activations of the published pipeline on clips of the training. They are kept on disk.

    `effective["quantization"]` has `kind`, torchao's version, `clips`, and by component the figures of
    `variants.compile.compiled` and `calibrate_s`, 0 where its scales were found.

    Args:
        components: some of `STATIC`.
        clips: number of clips for the scales.
        folder: of kept programs.
        max_gb: bound of the folder in GiB.

    Raises:
        InputError: an option is out of range, or another group has changed a component.
        UnsupportedError: torchao is not installed, or the device is no x86 processor.
    """
    check_whole("quantization.clips", clips, least=1)
    check_number("quantization.max_gb", max_gb, above_0, "a number of GiB above 0")
    if unknown := [name for name in components if name not in STATIC]:
        raise InputError(f"quantization.components names {unknown[0]!r}; give some of {', '.join(STATIC)}")
    device = pipeline.networks.device.type
    if device != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        here = platform.machine() if device == "cpu" else device
        raise UnsupportedError(f"quantization=int8_static is for x86 processors, not for {here}")
    _installed()
    generator = pipeline.networks.generator
    modules: dict[str, nn.Module] = {name: getattr(generator, name) for name in components}
    for name, module in modules.items():
        half = any(x.dtype != torch.float32 for x in module.parameters())
        if half or any(is_wrapped(part) for part in module.modules()):
            raise InputError(
                f"quantization=int8_static needs {name} in float32 as published, and another group changes it; give "
                "precision=fp32 kernels=torch, or leave it out of quantization.components"
            )
    programs = _programs(pipeline, modules, clips, DiskLRUCache(folder, int(max_gb * 2**30), ".pt2"))
    reports: dict[str, Any] = {}
    stats = {"kind": "int8_static", "torchao": version("torchao"), "clips": clips, "components": reports}
    pipeline.effective["quantization"] = stats
    for name, (program, seconds) in programs.items():
        report = reports[name] = {**copy.deepcopy(COMPILED), "calibrate_s": seconds}
        fast = torch.compile(program, dynamic=True)
        wrap(modules[name], falling_back(modules[name], _in_float32(fast), report, name, keep_outputs=False))
        pipeline.compiled_components.add(name)
    return pipeline


def _in_float32(fast: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        # Frozen weights stay in int8, else they are converted at each call. The option of torch.compile does not reach
        # torchao's passes.
        frozen = torch._inductor.config.patch(freezing=True)
        with torch.autocast(x.device.type, enabled=False), torch.no_grad(), frozen:
            return fast(x.float())

    return call


def _programs(
    pipeline: Pipeline, modules: Mapping[str, nn.Module], clips: int, entries: DiskLRUCache
) -> dict[str, tuple[Any, float]]:
    """Return each module's quantized program, and the seconds that its calibration took here."""
    # Registers the operations of a kept program, and the passes that make int8 convolutions of them.
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401

    known = [fingerprint(pipeline.networks), clips, torch.__version__, version("torchao")]
    known += [source_fingerprint(propainter), _reduces_range(pipeline.networks.device)]
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
    programs: dict[str, tuple[Any, float]] = {}
    for name in modules:
        if not entries.path(f"{name}-{key}").exists():
            continue  # torch logs a stack for it
        found = entries.read(f"{name}-{key}", lambda path: torch.export.load(str(path)), (RuntimeError, ValueError))
        if found is not None:
            programs[name] = found.module(), 0.0
    missing = {name: module for name, module in modules.items() if name not in programs}
    if missing:
        start = time.perf_counter()
        made = _calibrate(pipeline, missing, clips)
        each = (time.perf_counter() - start) / len(missing)
        for name, program in made.items():
            try:
                entries.write(f"{name}-{key}", partial(torch.export.save, program))
            except OSError as error:
                log.warning("the scales of %s are not kept: %s", name, error)
            programs[name] = program.module(), each
    return programs


def _calibrate(pipeline: Pipeline, modules: Mapping[str, nn.Module], clips: int) -> dict[str, Any]:
    """Find the scales of modules from their inputs on clips, and return the quantized programs."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    log.info("calibrating %s on %d clips", " and ".join(modules), clips)
    inputs, made = calibration_inputs(pipeline, modules, clips), {}
    config = get_default_x86_inductor_quantization_config(reduce_range=_reduces_range(pipeline.networks.device))
    for name, module in modules.items():
        with exporting():
            examples = [x.clone() for x in inputs[name]]
            sides = {2: torch.export.Dim("height", min=SMALLEST), 3: torch.export.Dim("width", min=SMALLEST)}
            shapes = ({0: torch.export.Dim("frames"), **sides},)
            plain = torch.export.export(module, (examples[0],), dynamic_shapes=shapes, strict=True).module()
            prepared = prepare_pt2e(plain, X86InductorQuantizer().set_global(config))
            for x in examples:
                prepared(x)
            converted = convert_pt2e(prepared)
            made[name] = torch.export.export(converted, (examples[0],), dynamic_shapes=shapes, strict=True)
    return made


def calibration_inputs(pipeline: Pipeline, modules: Mapping[str, nn.Module], clips: int) -> dict[str, list[Tensor]]:
    """Return what modules of the generator take in the published pipeline on clips of the training, by module.

    Raises:
        UnsupportedError: a package that the clips are drawn with is not installed.
    """
    from propainter.training.clips import synthetic_clip

    taken: dict[str, list[Tensor]] = {name: [] for name in modules}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: taken[name].append(inputs[0].clone()))
        for name, module in modules.items()
    ]
    # Flow by DIS: the scales depend little on the flow, and RAFT would take most of the time.
    published = Pipeline(replace(pipeline.networks, raft=None))
    try:
        for seed in range(clips):
            clip = synthetic_clip(seed, FRAMES, *SIZE, split="train")
            published(clip.frames, clip.masks)
    except InputError as error:
        raise UnsupportedError(str(error)) from error
    finally:
        for hook in hooks:
            hook.remove()
    return taken
