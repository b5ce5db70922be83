"""`kernels`: other ways to compute the same, where torch's operations are slow at what the networks ask of them.

Applied after `reuse`, and before what wraps the flow estimator.
"""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.models.optical_flow.raft import CorrBlock

from propainter.inference.pipeline import Clip, OverStages, Pipeline
from propainter.memory_tracker import freed_memory_kept
from propainter.models.raft import ClipFlow
from variants import Unsupported
from variants.correlation import AllPairs
from variants.kernels.onednn_conv import convolve_linear_layers, in_channels_last, split
from variants.reuse.conv_gru import Gating
from variants.reuse.dedup_flow import FlowOnce


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
        raise Unsupported(f"kernels=cpu are for the CPU, not for this {device.type} device")
    if not isinstance(estimator, (ClipFlow, FlowOnce)):
        raise Unsupported(f"kernels=cpu belong to RAFT's own flow estimators, not to {type(estimator).__name__}")
    said = _loops_by_numba(estimator, pipeline.networks.raft.corr_block)
    generator = pipeline.networks.generator
    layers = sum(convolve_linear_layers(module) for module in (generator.transformers, generator.sc))
    for network in (pipeline.networks.flow_completion, generator):
        in_channels_last(network)
    wrapped = "forward" in vars(generator.ss)
    if not wrapped:
        generator.ss.forward = partial(split, generator.ss)
    said |= {
        "linear": f"{layers} layers by convolution, where they are called as layers",
        "channels_last": ["flow_completion", "generator"],
        "tokens": "cut as published, by a wrapped module" if wrapped else "cut by convolution",
        "freed_memory_kept": False,
    }
    pipeline.effective["kernels"] = said
    pipeline.over_stages = _keeping_memory(pipeline.over_stages, said)
    return pipeline


def _keeping_memory(over_stages: OverStages, said: dict[str, Any]) -> OverStages:
    def kept(pipeline: Pipeline, clip: Clip) -> np.ndarray:
        with freed_memory_kept() as said["freed_memory_kept"]:
            return over_stages(pipeline, clip)

    return kept


def _loops_by_numba(estimator: ClipFlow | FlowOnce, published: CorrBlock) -> dict[str, Any]:
    """Put the loops into the estimator; says what does its windows and recurrent units from now on."""
    try:
        from variants.kernels import numba_corr as numba_windows
        from variants.kernels import numba_gru
        from variants.kernels import numba_math as numba_numbers
    except ImportError as error:
        raise Unsupported(f"kernels=cpu needs the package numba ({error}): pip install numba") from error
    try:
        numba_windows.compile_now(published.radius)
        numba_gru.compile_now()
    except RuntimeError as error:  # nowhere to keep what it compiles
        raise Unsupported(f"kernels=cpu: {error}; set NUMBA_CACHE_DIR to a folder that can be written to") from error
    said = {"windows": "numba", "recurrent": "torch, inside the published network"}
    make = estimator.correlation or partial(AllPairs, num_levels=published.num_levels, radius=published.radius)
    if isinstance(make(), AllPairs):
        estimator.correlation = partial(make, windows=numba_windows.windows)
    else:
        said["windows"] = f"torch, since {type(make()).__name__} has no volume"
    if isinstance(estimator, FlowOnce):
        estimator.gating = _noting(numba_gru.GATING, said)
        said["recurrent"] = "numba, not called: RAFT's update block is wrapped, or no flow was estimated"
    if said["windows"] == "numba" or isinstance(estimator, FlowOnce):
        estimator.identity = estimator.identity and f"{estimator.identity}, {numba_numbers.identity()}"
    return said


def _noting(loops: Gating, said: dict[str, Any]) -> Gating:
    """The same; says so once they run. They don't where RAFT's update block is wrapped, which may come later."""

    def gates(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        said["recurrent"] = "numba"
        return loops.gates(*inputs)

    return loops._replace(gates=gates)
