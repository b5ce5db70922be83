"""Which pipelines can take a video frame by frame (for `residency=streaming`)."""

from propainter.inference.pipeline import Pipeline, no_split
from propainter.inference.streaming import Streaming
from variants.fallback import Ladder


def frame_by_frame(pipeline: Pipeline) -> tuple[Streaming | None, str | None]:
    """What takes a video through this pipeline frame by frame, or None, and why not where streaming was asked for.

    Of the ladder of `fallback` only the flow's steps are left there: frames that are written can't be inpainted again.
    """
    streaming = pipeline.stage_runner
    if not isinstance(streaming, Streaming):
        return None, None
    clip_splitter = pipeline.clip_splitter
    ladder = getattr(clip_splitter, "__self__", None)
    if isinstance(ladder, Ladder):
        clip_splitter = ladder.inner
    if clip_splitter is not no_split:
        return (
            None,
            "chunking cuts a clip that is in memory; leave chunking=none, since streaming bounds memory by itself",
        )
    return streaming, None
