"""`kernels`: other ways to compute the same, where torch's operations are slow at what the networks ask of them.

Applied after `reuse`, and before what wraps the flow estimator.
"""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.models.optical_flow.raft import CorrBlock

from propainter.allocator import no_heap_trim
from propainter.inference.pipeline import Clip, Pipeline, StageRunner
from propainter.models.raft import ClipFlow
from variants import UnsupportedError, claims_published
from variants.components import is_wrapped, wrap
from variants.correlation import AllPairs
from variants.kernels.onednn_conv import convolve_linear_layers, in_channels_last, split
from variants.reuse.conv_gru import Gating
from variants.reuse.dedup_flow import DedupFlowEstimator


@claims_published
def cpu(pipeline: Pipeline) -> Pipeline:
    """What a CPU does faster another way: RAFT's windows, linear layers, the cutting of tokens, memory.

    - Windows of the correlation volume by a loop that numba compiles: grid_sample works out for each of a window's 81
      taps where it lies; all of them lie equally far between pixels. With `correlation=on_demand` there is no volume,
      and nothing changes.
    - What RAFT's recurrent units do between their convolutions, as loops that numba compiles (with `reuse=flow` or
      `exact`, where the units lie open).
    - The generator's linear layers, and the cutting of tokens with theirs, by oneDNN's convolutions.
    - Flow completion and generator in channels_last, which oneDNN's convolutions compute in on processors with matrix
      units: in any other layout torch copies what they give (RAFT's recurrent layers always are; its encoders
      normalise each channel, for which torch would copy it back).
    - What a run frees stays with the process until its end, so that the kernel does not clear the same pages over and
      over (not with `residency=streaming`, which gives it back to stay small).

    `effective["kernels"]` says what does each.

    Raises:
        Unsupported: on another device, without the package numba, or with a flow estimator of another kind.
    """
    device, estimator = pipeline.networks.device, pipeline.flow_estimator
    if device.type != "cpu":
        raise UnsupportedError(f"kernels=cpu are for the CPU, not for this {device.type} device")
    if not isinstance(estimator, (ClipFlow, DedupFlowEstimator)):
        raise UnsupportedError(f"kernels=cpu belong to RAFT's own flow estimators, not to {type(estimator).__name__}")
    stats = _loops_by_numba(estimator, pipeline.networks.raft.corr_block)
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
    pipeline.stage_runner = _keeping_memory(pipeline.stage_runner or Pipeline.run_stages, stats)
    return pipeline


def _keeping_memory(stage_runner: StageRunner, stats: dict[str, Any]) -> StageRunner:
    def kept(pipeline: Pipeline, clip: Clip) -> np.ndarray:
        with no_heap_trim() as stats["no_heap_trim"]:
            return stage_runner(pipeline, clip)

    return kept


def _loops_by_numba(estimator: ClipFlow | DedupFlowEstimator, published: CorrBlock) -> dict[str, Any]:
    """Put the loops into the estimator; says what does its windows and recurrent units from now on."""
    try:
        from variants.kernels import numba_corr, numba_gru, numba_math
    except ImportError as error:
        raise UnsupportedError(f"kernels=cpu needs the package numba ({error}): pip install numba") from error
    try:
        numba_corr.compile_now(published.radius)
        numba_gru.compile_now()
    except RuntimeError as error:  # nowhere to keep what it compiles
        raise UnsupportedError(
            f"kernels=cpu: {error}; set NUMBA_CACHE_DIR to a folder that can be written to"
        ) from error
    stats = {"windows": "numba", "recurrent": "torch, inside the published network"}
    make = estimator.correlation or partial(AllPairs, num_levels=published.num_levels, radius=published.radius)
    if isinstance(make(), AllPairs):
        estimator.correlation = partial(make, windows=numba_corr.windows)
    else:
        stats["windows"] = f"torch, since {type(make()).__name__} has no volume"
    if isinstance(estimator, DedupFlowEstimator):
        estimator.gating = _noting(numba_gru.GATING, stats)
        stats["recurrent"] = "numba, not called: RAFT's update block is wrapped, or no flow was estimated"
    if stats["windows"] == "numba" or isinstance(estimator, DedupFlowEstimator):
        estimator.identity = estimator.identity and f"{estimator.identity}, {numba_math.identity()}"
    return stats


def _noting(loops: Gating, stats: dict[str, Any]) -> Gating:
    """The same; says so once they run. They don't where RAFT's update block is wrapped, which may come later."""

    def gates(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        stats["recurrent"] = "numba"
        return loops.gates(*inputs)

    return loops._replace(gates=gates)
