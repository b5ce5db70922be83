"""`reuse`: the published schedule without the work that it does twice, or throws away; the same output.

Applied after `attention`, `precision` and `correlation`, whose choices it keeps, and before what wraps the flow
estimator.
"""

from propainter.inference.pipeline import Pipeline
from propainter.models.raft import ClipFlow
from propainter.validation import above_0, check_number
from variants import UnsupportedError, claims_published
from variants.reuse.batching import FrameBatcher
from variants.reuse.dedup_flow import DedupFlowEstimator
from variants.reuse.deform_conv import sampled_deform_conv
from variants.reuse.generator import DeviceCompositor, FeatureCache, predictor
from variants.reuse.region_decode import RegionFlowDecoder
from variants.reuse.window_attention import PlannedWindowAttention


@claims_published
def flow(pipeline: Pipeline, batch_mb: float | None = None) -> Pipeline:
    """RAFT's feature and context networks once per frame, both directions from one volume, one upsampling per pair.

    `effective["reuse"]["flow"]` tells of the latest call of the estimator: `feature_frames` that were encoded,
    `pairs_together` in a batch, `upsamplings` (batches), `context`: how often its convolutions were done.

    Args:
        batch_mb: MiB that a batch of pairs may take; null: 256 on the CPU, 1024 elsewhere.

    Raises:
        InputError: `batch_mb` is not above 0.
        Unsupported: another flow estimator has taken the published one's place.
    """
    if batch_mb is not None:
        check_number("reuse.batch_mb", batch_mb, above_0, "a number of MiB above 0, or null")
    published = pipeline.flow_estimator
    if not isinstance(published, ClipFlow):
        raise UnsupportedError(
            f"reuse of flow stands in for ClipFlow, the published estimator, not for {type(published).__name__}"
        )
    pipeline.flow_estimator = DedupFlowEstimator(
        published, batch_mb and int(batch_mb * 2**20), _stats(pipeline, "flow")
    )
    return pipeline


@claims_published
def features(pipeline: Pipeline) -> Pipeline:
    """Each frame encoded once, and a reference's tokens cut once; kept while a window to come needs them.

    `effective["reuse"]["features"]` and `["tokens"]` tell of the latest run how many frames were `made`, and
    `kept_bytes`, the most that was kept at once.
    """
    pipeline.feature_provider = FeatureCache(_stats(pipeline, "features"))
    pipeline.predictor = predictor(tokens=_stats(pipeline, "tokens"))
    return pipeline


@claims_published
def attention(pipeline: Pipeline) -> Pipeline:
    """Keys, values and pooled tokens only where a masked window sees them; queries of the last block only of frames
    that are decoded; which windows are masked known before the first; the fold of ones once per run.

    `effective["reuse"]["attention"]` tells of the latest run how many of all `windows` were `masked_windows`.

    Raises:
        Unsupported: the window attention has no inner kernel.
    """
    _plan_attention(pipeline)
    pipeline.predictor = predictor(plans=_stats(pipeline, "attention"))
    return pipeline


@claims_published
def exact(pipeline: Pipeline, batch_mb: float | None = None) -> Pipeline:
    """All of it; and frames and completed flow are decoded around the hole only, the latter a few frames at a time, the
    result is composited on the device, and on the CPU deformable convolution runs on all cores.

    Args:
        batch_mb: see `flow`.

    Raises:
        InputError, Unsupported: see `flow` and `attention`.
    """
    flow(pipeline, batch_mb)
    features(pipeline)
    _plan_attention(pipeline)
    pipeline.predictor = predictor(_stats(pipeline, "tokens"), _stats(pipeline, "attention"), around_hole=True)
    pipeline.compositor = DeviceCompositor
    completion = pipeline.networks.flow_completion
    completion.frame_batcher = FrameBatcher(_stats(pipeline, "completion"))
    completion.decode = RegionFlowDecoder(completion)
    if pipeline.networks.device.type == "cpu":
        _stats(pipeline, "deform_conv2d").update(by="grid_sample")
        in_fp32 = pipeline.effective.get("ops_in_fp32", {})
        in_fp32.update((name, "its sampling; the product is in half precision") for name in list(in_fp32))
        for network in (pipeline.networks.flow_completion, pipeline.networks.generator):
            for module in network.modules():
                if hasattr(module, "deform_conv"):
                    module.deform_conv = sampled_deform_conv
    return pipeline


def _plan_attention(pipeline: Pipeline) -> None:
    kernel = getattr(pipeline.window_attention, "kernel", None)
    if kernel is None:
        kind = type(pipeline.window_attention).__name__
        raise UnsupportedError(
            f"reuse of attention needs the inner kernel of the window attention, and {kind} has none"
        )
    pipeline.window_attention = PlannedWindowAttention(kernel)


def _stats(pipeline: Pipeline, part: str) -> dict:
    return pipeline.effective.setdefault("reuse", {}).setdefault(part, {})
