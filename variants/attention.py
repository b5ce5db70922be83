"""`attention`: the inner kernel of the generator's window attention."""

from propainter.attention import PublishedWindowAttention, manual_attention
from propainter.pipeline import Pipeline


def manual(pipeline: Pipeline) -> Pipeline:
    """Matrix product, softmax, matrix product, as published."""
    pipeline.networks.generator.transformers.window_attention = PublishedWindowAttention(manual_attention)
    return pipeline
