"""`region`: inpaint a rectangle around the hole instead of the whole picture."""

import logging
from collections.abc import Callable, Sequence
from math import ceil

import torch
from torch import Tensor

from propainter.inference.pipeline import Pipeline
from propainter.inference.shots import Shot, enclosing
from propainter.models.raft import Flows
from propainter.validation import check_number, check_whole

log = logging.getLogger(__name__)


def hole(pipeline: Pipeline, margin: int = 64, share: float = 0.5) -> Pipeline:
    """Inpaint in each shot the rectangle around all its holes and a margin, and paste it into the frames.

    The output is not the published one: nothing outside the rectangle reaches the hole, and what moves out of the
    rectangle is lost to propagation. A warning says where motion from a frame to the next is larger than the margin.

    `effective["region"]` has `kind`; `rectangles`, a list of {"frames": [start, stop], "rows": [start, stop],
    "columns": [start, stop]}; `margin_px`, the least distance between a dilated hole and its rectangle's border inside
    the picture (null: there is no such border); `computed_share`, pixels of the rectangles over pixels of the video's
    shots that have a hole; `largest_motion_px`, the largest component of the estimated flow.

    Args:
        margin: pixels between the dilated hole and the rectangle's border.
        share: the margin in shares of the hole's longer side. The larger of both margins holds.

    Raises:
        InputError: an option is out of range.
    """
    check_whole("region.margin", margin, least=0)
    check_number("region.share", share, lambda number: 0 <= number <= 10, "a share of the hole's size, such as 0.5")
    chosen = HoleRegion(pipeline, margin, share)
    pipeline.region, pipeline.flow_estimator = chosen.rectangles, chosen.flow_estimator
    return pipeline


class HoleRegion:
    """Choose rectangles, and watch the motion in them; see `hole`."""

    def __init__(self, pipeline: Pipeline, margin: int, share: float) -> None:
        self._effective, self._estimate = pipeline.effective, pipeline.flow_estimator
        self._margin, self._share = margin, share
        self._warned = False

    def rectangles(self, shots: Sequence[Shot], size: tuple[int, int]) -> list[Shot]:
        """Return the shots with their rectangles; a `propainter.inference.shots.Region`."""
        chosen, margins = [], []
        for shot in shots:
            margin = max(self._margin, ceil(self._share * max(shot.size)))
            sides = (shot.rows, shot.columns)
            rows, columns = (enclosing(part, margin, side) for part, side in zip(sides, size, strict=True))
            chosen.append(shot._replace(rows=rows, columns=columns))
            for around, part, side in zip((rows, columns), sides, size, strict=True):
                margins += [part.start - around.start] * (around.start > 0)
                margins += [around.stop - part.stop] * (around.stop < side)
        computed = sum((shot.stop - shot.start) * shot.size[0] * shot.size[1] for shot in chosen)
        self._effective["region"] = {
            "kind": "hole",
            "rectangles": [
                {
                    "frames": [shot.start, shot.stop],
                    "rows": [shot.rows.start, shot.rows.stop],
                    "columns": [shot.columns.start, shot.columns.stop],
                }
                for shot in chosen
            ],
            "margin_px": min(margins, default=None),
            "computed_share": computed / sum((shot.stop - shot.start) * size[0] * size[1] for shot in chosen),
            "largest_motion_px": 0.0,
        }
        return chosen

    def flow_estimator(self, frames: Tensor, report: Callable[[int, int], None]) -> Flows:
        """Estimate flow, and note its largest component; a `propainter.inference.interfaces.FlowEstimator`."""
        flows = self._estimate(frames, report)
        stats = self._effective["region"]
        motion = torch.stack([flow.abs().amax() for flow in flows]).amax().item()
        stats["largest_motion_px"] = max(stats["largest_motion_px"], motion)
        margin = stats["margin_px"]
        if margin is not None and motion > margin and not self._warned:
            self._warned = True
            log.warning(
                "something moves by %.0f pixels from a frame to the next, out of the region, whose margin is %d: what "
                "it uncovers may not be found; give a larger region.margin, or region=frame",
                *(motion, margin),
            )
        return flows
