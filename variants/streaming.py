"""Which pipelines can take a video frame by frame (for `residency=streaming`)."""

from propainter.inference.pipeline import Pipeline, whole_clip
from propainter.inference.streaming import Streaming
from variants.fallback import Ladder


def frame_by_frame(pipeline: Pipeline) -> tuple[Streaming | None, str | None]:
    """What takes a video through this pipeline frame by frame, or None, and why not where streaming was asked for.

    Of the ladder of `fallback` only the flow's steps are left there: frames that are written can't be inpainted again.
    """
    streaming = pipeline.over_stages
    if not isinstance(streaming, Streaming):
        return None, None
    over_time = pipeline.over_time
    ladder = getattr(over_time, "__self__", None)
    if isinstance(ladder, Ladder):
        over_time = ladder.inner
    if over_time is not whole_clip:
        return (
            None,
            "chunking cuts a clip that is in memory; leave chunking=none, since streaming bounds memory by itself",
        )
    return streaming, None
