"""`kernels`: faster implementations of operations that are slow in torch at the networks' shapes.

Applied after `reuse`, and before the groups that wrap the flow estimator.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.optical_flow.raft import CorrBlock

from propainter.allocator import no_heap_trim
from propainter.inference.pipeline import Clip, Pipeline, StageRunner
from propainter.models.flow_completion import predict_flow
from propainter.models.layers import DeformableAlignment
from propainter.models.raft import ClipFlow, Correlation, Flows
from propainter.models.warp import warp
from variants import UnsupportedError, claims_published, needs_cuda
from variants.components import is_wrapped, wrap
from variants.correlation import AllPairs
from variants.guard import guarded, recorded
from variants.kernels import gru_op
from variants.kernels.onednn_conv import convolve_linear_layers, in_channels_last, split
from variants.reuse.conv_gru import TORCH, Gating
from variants.reuse.dedup_flow import DedupFlowEstimator

log = logging.getLogger(__name__)

TRITON_DEVICE = "cuda"
"""The type of device that Triton's kernels run on."""


@claims_published
def cpu(pipeline: Pipeline) -> Pipeline:
    """Compute on the CPU with numba's loops for RAFT, oneDNN's convolutions for linear layers, and no heap trimming.

    - numba looks up windows of the correlation volume: all 81 taps of a window share one fractional offset, which
      grid_sample computes for each. `correlation=on_demand` has no volume, and stays as it is.
    - numba computes RAFT's recurrent units between their convolutions, with `reuse=flow` or `exact`.
    - oneDNN's convolutions compute the generator's linear layers and the soft split.
    - Flow completion and generator are in channels_last, which oneDNN needs on processors with matrix units to save
      copies of outputs. RAFT stays: its encoders normalise each channel, for which torch would copy back.
    - Freed memory stays with the process until the run's end, so that the kernel does not clear its pages again. Not so
      with `residency=streaming`.

    `effective["kernels"]` names the implementation of each part.

    Raises:
        UnsupportedError: the device is no CPU, numba is not installed, or the flow estimator is not RAFT's own.
    """
    device, estimator = pipeline.networks.device, pipeline.flow_estimator
    if device.type != "cpu":
        raise UnsupportedError(f"kernels=cpu are for the CPU, not for this {device.type} device")
    if not isinstance(estimator, (ClipFlow, DedupFlowEstimator)):
        raise UnsupportedError(f"kernels=cpu belong to RAFT's own flow estimators, not to {type(estimator).__name__}")
    stats = _loops_by_numba(estimator, pipeline.networks.raft.corr_block, _flow_dtype(pipeline))
    generator = pipeline.networks.generator
    layers = sum(convolve_linear_layers(module) for module in (generator.transformers, generator.sc))
    for network in (pipeline.networks.flow_completion, generator):
        in_channels_last(network)
    wrapped = is_wrapped(generator.ss)
    if not wrapped:
        wrap(generator.ss, partial(split, generator.ss))
    stats |= {
        "linear": f"{layers} layers by convolution, where they are called as layers",
        "channels_last": ["flow_completion", "generator"],
        "tokens": "cut as published, by a wrapped module" if wrapped else "cut by convolution",
        "no_heap_trim": False,
    }
    pipeline.effective["kernels"] = stats
    pipeline.stage_runner = _without_heap_trim(pipeline.stage_runner or Pipeline.run_stages, stats)
    return pipeline


@needs_cuda
@claims_published
def cuda(pipeline: Pipeline) -> Pipeline:
    """Compute on CUDA with a Triton kernel for deformable alignment, and with layouts that half precision needs.

    - Flow completion takes both directions of a small flow in one batch.
    - Triton samples between the two products of a deformable alignment (`triton_deform`), and adds a convolution's bias
      together with the activation after it (`triton_bias`).
    - Networks whose weights are in half precision (`precision=amp_all`, `half` and `half_all`) are in channels_last, as
      tensor cores need it: cuDNN would copy inputs and outputs of any other layout. In these Triton also warps the
      features (`triton_warp`), and computes RAFT's recurrent units between their convolutions, with `reuse=flow` or
      `exact` (`triton_gru`). Others stay: in float32 without TF32 cuDNN's kernels for the published layout are faster.

    `effective["kernels"]` says what ran: `alignment`, `bias`, `recurrent`, `warp` and `channels_last`. `bias_by_torch`
    says where torch added a bias last, in compiled code or in a layout with gaps; None: nowhere.

    Raises:
        UnsupportedError: the device is not CUDA, or Triton is not installed.
    """
    device = pipeline.networks.device
    if device.type != TRITON_DEVICE:
        raise UnsupportedError(f"kernels=cuda are for CUDA, not for this {device.type} device")
    try:
        import variants.kernels.triton_gru  # noqa: F401, implements an operation
        from variants.kernels.triton_warp import warp as triton_warp
    except ImportError as error:
        raise UnsupportedError(
            f"kernels=cuda needs the package triton ({error}): pip install triton, or preset=fast_cuda_torch"
        ) from error
    stats: dict[str, Any] = dict.fromkeys(("alignment", "bias", "recurrent", "warp"), "torch")
    pipeline.effective["kernels"] = stats
    _align_by_triton(pipeline, stats)
    in_half = [name for name in pipeline.networks.names if is_half(getattr(pipeline.networks, name))]
    for name in in_half:
        in_channels_last(getattr(pipeline.networks, name))
    stats["channels_last"] = in_half
    _add_biases_by_triton(pipeline, stats)
    estimator = pipeline.flow_estimator
    if isinstance(estimator, DedupFlowEstimator) and "raft" in in_half:
        # One fallback for both, so that `stats` tells of both.
        unit = _by_triton(
            *(stats, "recurrent"),
            lambda part, *inputs: getattr(gru_op.GATING, part)(*inputs),
            lambda part, *inputs: getattr(TORCH, part)(*inputs),
        )
        estimator.gating = Gating(*(partial(unit, part) for part in Gating._fields))
    if isinstance(estimator, ClipFlow | DedupFlowEstimator):
        estimator.identity = estimator.identity and f"{estimator.identity}, kernels=cuda"
    pipeline.flow_predictor = predict_together
    if "generator" in in_half:
        pipeline.networks.generator.feat_prop_module.warp = _by_triton(stats, "warp", triton_warp, warp)
    return pipeline


def _by_triton(
    stats: dict[str, Any],
    part: str,
    fast: Callable[..., Any],
    by_torch: Callable[..., Any],
    on_failure: Callable[[], None] = lambda: None,
) -> Callable[..., Any]:
    """Return `fast`, with `by_torch` in its place from its first failure on; `stats[part]` says which of them ran."""
    stats[part] = "triton, not called: a wrapped or compiled module has torch's operations, or its stage did not run"

    def fall_back(reason: str) -> None:
        stats[part] = f"torch, since Triton's failed: {reason}"
        log.warning("%s goes on without Triton: %s", part, reason)
        on_failure()

    return guarded(recorded(fast, stats, part, "triton"), by_torch, fall_back, device_type=TRITON_DEVICE)


def _align_by_triton(pipeline: Pipeline, stats: dict[str, Any]) -> None:
    from variants.kernels.triton_deform import TritonAlignment

    in_fp32 = pipeline.effective.get("ops_in_fp32", {})
    before = dict(in_fp32)
    in_fp32.update((name, "only inside Triton's kernel; its tensors are in half precision") for name in before)
    align = _by_triton(
        *(stats, "alignment", TritonAlignment.__call__, TritonAlignment.by_torch), lambda: in_fp32.update(before)
    )
    for network in (pipeline.networks.flow_completion, pipeline.networks.generator):
        for module in network.modules():
            if isinstance(module, DeformableAlignment):
                module.align = partial(align, TritonAlignment(module))


def _add_biases_by_triton(pipeline: Pipeline, stats: dict[str, Any]) -> None:
    from variants.kernels.triton_bias import bias_act, fuse_biases, refusal, torch_bias_act

    stats["bias_by_torch"] = None
    launch = _by_triton(stats, "bias", bias_act, torch_bias_act)

    def add(x: Tensor, bias: Tensor, slope: float) -> Tensor:
        refused = refusal(x)
        if refused is None:
            return launch(x, bias, slope)
        stats["bias_by_torch"] = refused
        return torch_bias_act(x, bias, slope)

    for name in pipeline.networks.names:
        fuse_biases(getattr(pipeline.networks, name), add)


DIRECTIONS_TOGETHER_BYTES = 256 * 2**20
"""Largest flow of one direction for which `predict_together` takes both at once, in bytes."""


def predict_together(network: Callable[[Tensor, Tensor], Tensor], flows: Flows, masks: Tensor) -> Flows:
    """Compute `predict_flow` for both directions in one batch, which takes half the launches.

    A flow that is larger than `DIRECTIONS_TOGETHER_BYTES` goes one direction after the other: its operations take
    longer than their launches, and a batch of two takes twice the memory.
    """
    flow_f, flow_b = flows
    if flow_f.nbytes > DIRECTIONS_TOGETHER_BYTES:
        return predict_flow(network, flows, masks)
    masks = torch.cat([masks[:, :-1], masks[:, 1:].flip(1)])
    forward, backward = network(torch.cat([flow_f, flow_b.flip(1)]) * (1 - masks), masks).chunk(2)
    return forward, backward.flip(1)


def is_half(network: nn.Module) -> bool:
    """Return whether the network's convolutions have weights in half precision."""
    weights = [layer.weight for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Conv3d))]
    return all(weight.element_size() == 2 for weight in weights)


def _without_heap_trim(stage_runner: StageRunner, stats: dict[str, Any]) -> StageRunner:
    def run(pipeline: Pipeline, clip: Clip) -> np.ndarray:
        with no_heap_trim() as stats["no_heap_trim"]:
            return stage_runner(pipeline, clip)

    return run


def _flow_dtype(pipeline: Pipeline) -> torch.dtype:
    """Return the dtype that convolutions give in the flow stage; not where RAFT itself enters autocast."""
    with ExitStack() as stack:
        for context in pipeline.contexts:
            stack.enter_context(context("flow"))
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _loops_by_numba(
    estimator: ClipFlow | DedupFlowEstimator, published: CorrBlock, dtype: torch.dtype
) -> dict[str, Any]:
    """Put the loops into the estimator, and return the implementations of its windows and recurrent units.

    Loops of another dtype than this one are compiled at their first call.
    """
    try:
        from variants.kernels import numba_corr, numba_gru, numba_math
    except ImportError as error:
        raise UnsupportedError(f"kernels=cpu needs the package numba ({error}): pip install numba") from error
    try:
        numba_corr.compile_now(published.radius, [dtype])
        numba_gru.compile_now([dtype])
    except RuntimeError as error:  # numba has no folder for its cache
        raise UnsupportedError(
            f"kernels=cpu: {error}; set NUMBA_CACHE_DIR to a folder that can be written to"
        ) from error
    stats = {"windows": "numba", "recurrent": "torch, inside the published network"}
    make: Callable[..., Correlation] = estimator.correlation or partial(
        AllPairs, num_levels=published.num_levels, radius=published.radius
    )
    if isinstance(make(), AllPairs):
        estimator.correlation = partial(make, windows=numba_corr.windows)
    else:
        stats["windows"] = f"torch, since {type(make()).__name__} has no volume"
    if isinstance(estimator, DedupFlowEstimator):
        gating = gru_op.GATING
        estimator.gating = gating._replace(gates=recorded(gating.gates, stats, "recurrent", "numba"))
        stats["recurrent"] = "numba, not called: RAFT's update block is wrapped, or no flow was estimated"
    if stats["windows"] == "numba" or isinstance(estimator, DedupFlowEstimator):
        estimator.identity = estimator.identity and f"{estimator.identity}, {numba_math.identity()}"
    return stats
