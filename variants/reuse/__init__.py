"""`reuse`: the published schedule without repeated and discarded work, with the same output.

Applied after `attention`, `precision` and `correlation`, whose choices it keeps, and before the groups that wrap the
flow estimator.
"""

from typing import Any

from propainter.errors import InputError
from propainter.inference.pipeline import Pipeline
from propainter.models.attention import FixedWindowAttention
from propainter.models.layers import DeformableAlignment
from propainter.models.raft import ClipFlow
from propainter.validation import above_0, check_number, check_whole
from variants import UnsupportedError, claims_published
from variants.components import NO_RAFT, raft_of
from variants.reuse.batching import FrameBatcher
from variants.reuse.dedup_flow import DedupFlowEstimator
from variants.reuse.deform_conv import sampled_deform_conv
from variants.reuse.generator import DeviceCompositor, FeatureCache, predictor
from variants.reuse.region_decode import RegionFlowDecoder
from variants.reuse.window_attention import PlannedWindowAttention


@claims_published
def flow(pipeline: Pipeline, batch_mb: float | None = None) -> Pipeline:
    """Encode each frame once in RAFT, compute both directions from one volume, and upsample once per pair.

    `effective["reuse"]["flow"]` has figures of the estimator's latest call: `feature_frames` (encoded),
    `pairs_together` (in a batch), `upsamplings` (batches), `context` (how often the context's convolutions ran). In a
    pipeline without RAFT it has `status`, which says that the option is ignored.

    Args:
        batch_mb: bound of a batch of pairs in MiB; None: 256 on the CPU, 1024 elsewhere.

    Raises:
        InputError: `batch_mb` is not above 0.
        UnsupportedError: the flow estimator is not the published one.
    """
    if batch_mb is not None:
        check_number("reuse.batch_mb", batch_mb, above_0, "a number of MiB above 0, or null")
    if raft_of(pipeline, "reuse of flow") is None:
        _stats(pipeline, "flow").update(status=NO_RAFT)
        return pipeline
    published = pipeline.flow_estimator
    if not isinstance(published, ClipFlow):
        raise UnsupportedError(
            f"reuse of flow is for ClipFlow, the published estimator, not for {type(published).__name__}"
        )
    batch_bytes = None if batch_mb is None else int(batch_mb * 2**20)
    pipeline.flow_estimator = DedupFlowEstimator(published, batch_bytes, _stats(pipeline, "flow"))
    return pipeline


@claims_published
def features(pipeline: Pipeline) -> Pipeline:
    """Encode each frame and embed each reference's tokens once, and keep them while a later window needs them.

    `effective["reuse"]["features"]` and `["tokens"]` have figures of the latest run: `made` (frames) and `kept_bytes`
    (the most at once).
    """
    pipeline.feature_provider = FeatureCache(_stats(pipeline, "features"))
    pipeline.predictor = predictor(tokens=_stats(pipeline, "tokens"))
    return pipeline


@claims_published
def attention(pipeline: Pipeline, pad_windows: int | None = None) -> Pipeline:
    """Compute only those tokens of window attention that its result depends on.

    Keys, values and pooled tokens are computed where a masked window attends to them, and queries of the last block in
    decoded frames. The masked windows are determined once per run, and so is the fold of ones.

    `effective["reuse"]["attention"]` has figures of the latest run: `masked_windows`, of all `windows`.

    Args:
        pad_windows: multiple to which masked windows are filled up, so that the transformer's tensors have few shapes.
            Compilers, cuDNN and CUDA graphs begin anew for each shape. None: as many as the hole touches.

    Raises:
        InputError: `pad_windows` is no whole number above 0; or it is `attention=manual_fixed`.
        UnsupportedError: the window attention has no inner kernel.
    """
    _plan_attention(pipeline, pad_windows)
    pipeline.predictor = predictor(plans=_stats(pipeline, "attention"), pad_windows=pad_windows)
    return pipeline


@claims_published
def exact(pipeline: Pipeline, batch_mb: float | None = None, pad_windows: int | None = None) -> Pipeline:
    """Apply `flow`, `features` and `attention`, and decode only around the hole.

    Flow completion decodes a few frames at a time, the result is composited on the device, and on the CPU deformable
    convolution runs on all cores. Arguments and errors are those of `flow` and `attention`.
    """
    flow(pipeline, batch_mb)
    features(pipeline)
    _plan_attention(pipeline, pad_windows)
    pipeline.predictor = predictor(_stats(pipeline, "tokens"), _stats(pipeline, "attention"), True, pad_windows)
    pipeline.compositor = DeviceCompositor
    completion = pipeline.networks.flow_completion
    completion.frame_batcher = FrameBatcher(_stats(pipeline, "completion"))
    completion.decode = RegionFlowDecoder(completion)  # type: ignore[method-assign]
    if pipeline.networks.device.type == "cpu":
        _stats(pipeline, "deform_conv2d").update(by="grid_sample")
        in_fp32 = pipeline.effective.get("ops_in_fp32", {})
        in_fp32.update((name, "its sampling; the product is in half precision") for name in list(in_fp32))
        for network in (pipeline.networks.flow_completion, pipeline.networks.generator):
            for module in network.modules():
                if isinstance(module, DeformableAlignment):
                    module.deform_conv = sampled_deform_conv
    return pipeline


def _plan_attention(pipeline: Pipeline, pad_windows: int | None) -> None:
    if pad_windows is not None:
        check_whole("reuse.pad_windows", pad_windows, least=1)
    if isinstance(pipeline.window_attention, FixedWindowAttention):
        raise InputError(
            "attention=manual_fixed would be ignored by reuse of attention, which plans windows its own way; give "
            "attention=manual, or another reuse"
        )
    kernel = getattr(pipeline.window_attention, "kernel", None)
    if kernel is None:
        kind = type(pipeline.window_attention).__name__
        raise UnsupportedError(
            f"reuse of attention needs the inner kernel of the window attention, and {kind} has none"
        )
    pipeline.window_attention = PlannedWindowAttention(kernel)


def _stats(pipeline: Pipeline, part: str) -> dict[str, Any]:
    return pipeline.effective.setdefault("reuse", {}).setdefault(part, {})
