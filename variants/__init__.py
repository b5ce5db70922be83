"""What may be swapped in ProPainter: each variant is one function of a `propainter.Pipeline`, named by one YAML.

A variant takes the pipeline (and its own options), changes what it has to through the pipeline's seams, and returns
it. One that this device or dtype cannot run raises `UnsupportedError` with the reason.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from propainter.inference.pipeline import Pipeline

GROUPS = {
    "attention": "manual",
    "precision": "fp32",
    "correlation": "all_pairs",
    "reuse": "none",
    "kernels": "torch",
    "raft_scale": "full",
    "flow_cache": "none",
    "residency": "resident",
    "compile": "none",
    "chunking": "none",
    "fallback": "none",
}
"""The config groups in the order in which they are applied, each with the option that is the published behaviour."""


class UnsupportedError(RuntimeError):
    """This variant can't run on this device, dtype or build; the message says why, in one sentence."""


def as_published(pipeline: "Pipeline") -> "Pipeline":
    """Leave the pipeline as it is: the published behaviour of a group that changes nothing."""
    return pipeline


def apply(pipeline: "Pipeline", variants: Mapping[str, Callable[["Pipeline"], "Pipeline"]]) -> "Pipeline":
    """Apply one variant per group, in the order of `GROUPS`."""
    for group in GROUPS:
        pipeline = variants[group](pipeline)
    return pipeline
