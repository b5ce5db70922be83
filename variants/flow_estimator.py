"""`flow_estimator`: what estimates optical flow, RAFT or OpenCV's DIS.

Applied before the groups that concern RAFT. DIS takes RAFT out of the pipeline's networks: for these groups it is the
same as with weights that have no RAFT (`variants.components.lacks_raft`).
"""

from dataclasses import replace

from propainter import InputError
from propainter.inference.pipeline import Pipeline
from propainter.models.dis import MASK_MARGIN, DisFlowEstimator, import_opencv
from propainter.validation import check_whole
from variants import UnsupportedError, claims_published

__all__ = ["MASK_MARGIN", "DisFlowEstimator", "auto", "dis", "raft"]


@claims_published
def auto(pipeline: Pipeline) -> Pipeline:
    """Estimate flow by RAFT, as published; by DIS where the weights have no RAFT.

    `effective["flow_estimator"]` is as in `raft` or `dis`.
    """
    return dis(pipeline) if pipeline.networks.raft is None else raft(pipeline)


@claims_published
def raft(pipeline: Pipeline) -> Pipeline:
    """Estimate flow by RAFT; `effective["flow_estimator"]` has `kind`.

    Raises:
        InputError: the weights have no RAFT.
    """
    if pipeline.networks.raft is None:
        raise InputError("flow_estimator=raft needs weights with RAFT, and these have none; give flow_estimator=dis")
    pipeline.effective["flow_estimator"] = {"kind": "raft"}
    return pipeline


def dis(pipeline: Pipeline, preset: str = "medium", mask_margin: int = MASK_MARGIN) -> Pipeline:
    """Estimate flow by OpenCV's DIS on the CPU, which has no weights and takes a few milliseconds per pair.

    Near a moving object's edge its flow is a mixture of two motions. Therefore flow completion gets larger masks.

    `effective["flow_estimator"]` has `kind`, `preset`, OpenCV's version (`opencv`) and `mask_margin_px`. The pipeline
    notes in `effective["flow_masks"]` where it left the margin out.

    Args:
        preset: "ultrafast", "fast" or "medium", the most accurate.
        mask_margin: pixels by which the masks of flow completion are dilated more.

    Raises:
        InputError: an option is out of range.
        UnsupportedError: OpenCV is not installed.
    """
    check_whole("flow_estimator.mask_margin", mask_margin, least=0)
    estimator = DisFlowEstimator(preset)
    try:
        version = import_opencv().__version__
    except InputError as error:
        raise UnsupportedError(str(error)) from error
    pipeline.flow_estimator, pipeline.flow_mask_margin = estimator, mask_margin
    pipeline.networks = replace(pipeline.networks, raft=None)
    pipeline.effective["flow_estimator"] = {
        **{"kind": "dis", "preset": preset, "opencv": version},
        "mask_margin_px": mask_margin,
    }
    return pipeline
