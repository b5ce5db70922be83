"""What may be swapped in ProPainter: each variant is one function of a `propainter.Pipeline`, named by one YAML.

A variant takes the pipeline and its own options, changes what it has to through the pipeline's interfaces, and returns
the pipeline. A variant that this device or dtype cannot run raises `UnsupportedError` with the reason.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from propainter.renamed import RenamedModules, module_getattr

if TYPE_CHECKING:
    from propainter import Networks, Pipeline, Schedule

GROUPS = {
    "attention": "manual",
    "flow_estimator": "auto",
    "precision": "fp32",
    "correlation": "all_pairs",
    "reuse": "none",
    "kernels": "torch",
    "quantization": "none",
    "runtime": "torch",
    "raft_scale": "full",
    "flow_cache": "none",
    "residency": "resident",
    "compile": "none",
    "cuda_graphs": "none",
    "chunking": "none",
    "fallback": "none",
    "scenes": "none",
    "region": "frame",
}
"""The config groups in the order in which they are applied, each with the option that is the published behaviour.

A new group is one line here and one line each in the defaults of conf/config.yaml and conf/preset/published.yaml.
"""

Variant = TypeVar("Variant", bound=Callable[..., "Pipeline"])


class UnsupportedError(RuntimeError):
    """Report a variant that can't run on this device, dtype or build; the message gives the reason in one sentence."""


class Mark:
    """Hold which variants declare a property by a decorator, `@MARK` or `@MARK.when(lambda scale: scale == 1)`."""

    def __init__(self) -> None:
        self._conditions: dict[Callable[..., Any], Callable[..., bool]] = {}

    def __call__(self, variant: Variant) -> Variant:
        """Mark a variant, whatever its options are."""
        return self.when(lambda **options: True)(variant)

    def when(self, condition: Callable[..., bool]) -> Callable[[Variant], Variant]:
        """Mark a variant where `condition`, called with the variant's options by name, returns True."""

        def mark(variant: Variant) -> Variant:
            self._conditions[variant] = condition
            return variant

        return mark

    def holds(self, variant: Callable[..., Any]) -> bool:
        """Return whether a variant has this mark with the options that it was given.

        Args:
            variant: a function of the pipeline, or the `functools.partial` that Hydra makes of an option's YAML.
        """
        function, options = (variant.func, variant.keywords) if isinstance(variant, partial) else (variant, {})
        return function in self._conditions and self._conditions[function](**options)


claims_published = Mark()
"""The variant claims the published output within rounding; the tests hold it to that beside every other option."""

needs_cuda = Mark()
"""The variant raises `UnsupportedError` on a CPU."""

needs_raft = Mark()
"""The variant has no effect where flow is not by RAFT."""


@claims_published
def as_published(pipeline: "Pipeline") -> "Pipeline":
    """Leave the pipeline as it is: the published behaviour of a group that changes nothing."""
    return pipeline


def build_pipeline(networks: "Networks", schedule: "Schedule", groups: Mapping[str, Any]) -> "Pipeline":
    """Return a pipeline over the networks with the option of each group in a config.

    Args:
        networks: on their device. Options change them, so that another pipeline needs networks of its own.
        groups: the settings of each group in `GROUPS`: a Hydra config, to whose other settings they may refer.

    Raises:
        UnsupportedError: an option can't run on this device or dtype.
    """
    from hydra.utils import instantiate

    from propainter import Pipeline

    return apply(Pipeline(networks, schedule), {group: instantiate(groups[group]) for group in GROUPS})


def apply(pipeline: "Pipeline", variants: Mapping[str, Callable[["Pipeline"], "Pipeline"]]) -> "Pipeline":
    """Apply one variant per group, in the order of `GROUPS`."""
    for group in GROUPS:
        pipeline = variants[group](pipeline)
    return pipeline


_RENAMED_MODULES = """
    chunk_size:chunking.auto_size convolved:kernels.onednn_conv fast_here:presets.by_device
    numba_gru:kernels.numba_gru numba_numbers:kernels.numba_math numba_windows:kernels.numba_corr
    regions:reuse.regions reuse_attention:reuse.window_attention reuse_batches:reuse.batching
    reuse_decoder:reuse.region_decode reuse_deform:reuse.deform_conv reuse_flow:reuse.dedup_flow
    reuse_generator:reuse.generator reuse_gru:reuse.conv_gru reuse_lookup:reuse.corr_lookup streaming:residency
"""
_RENAMED_NAMES = {
    "kernels.numba_corr": "PIXELS_TOGETHER:PIXELS_PER_BLOCK",
    "reuse.batching": "FewTogether:FrameBatcher entries_together:batch_size_for",
    "reuse.corr_lookup": "BothDirections:BidirectionalCorrelation SampledWindows:GridSampleLookup",
    "reuse.dedup_flow": "FlowOnce:DedupFlowEstimator",
    "reuse.generator": """
        EncodedOnce:FeatureCache KeptFrames:RefCountedFrames KnownPlans:PrecomputedPlans cut_tokens:embed decoded:decode
    """,
    "reuse.region_decode": "CompletedInHole:RegionFlowDecoder composed:compose_tokens",
    "reuse.window_attention": """
        KnownPlan:PrecomputedPlan mixed:feed_forward mixed_by_convolution:convolve_feed_forward
    """,
}
sys.meta_path.append(RenamedModules(__name__, _RENAMED_MODULES, _RENAMED_NAMES))

__getattr__ = module_getattr(__name__, "Unsupported:UnsupportedError PUBLISHED:GROUPS")
