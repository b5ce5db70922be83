"""`precision`: the dtypes that the networks compute in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from propainter.pipeline import Pipeline


def fp32(pipeline: Pipeline) -> Pipeline:
    """Everything in float32, with TF32 off (set explicitly around every stage, restored after it)."""
    pipeline.contexts.append(lambda stage: tf32(False))
    return pipeline


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in CUDA's matrix products and convolutions inside the block."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
