"""Options that are numbers, given values that they can't have."""

import pytest

from propainter import InputError, Pipeline
from propainter.weights import load_seeded
from variants import chunking, correlation, fallback, flow_cache, raft_scale, reuse

NUMBERS = {
    "weights.flow_scale": lambda pipeline, value: load_seeded(pipeline.networks, flow_scale=value),
    "reuse.batch_mb": lambda pipeline, value: reuse.exact(pipeline, batch_mb=value),
    "reuse.pad_windows": lambda pipeline, value: reuse.attention(pipeline, pad_windows=value),
    "correlation.block_mb": lambda pipeline, value: correlation.on_demand(pipeline, block_mb=value),
    "flow_cache.max_gb": lambda pipeline, value: flow_cache.disk(pipeline, "unused", max_gb=value),
    "raft_scale.scale": lambda pipeline, value: raft_scale.scaled(pipeline, value),
    "fallback.min_scale": lambda pipeline, value: fallback.ladder(pipeline, min_scale=value),
    "chunking.margin": lambda pipeline, value: chunking.auto(pipeline, margin=value),
    "chunking.limit_gb": lambda pipeline, value: chunking.auto(pipeline, limit_gb=value),
    "chunking.probe": lambda pipeline, value: chunking.auto(pipeline, probe=value),
    "chunking.above": lambda pipeline, value: chunking.long(pipeline, above=value),
}
"""Options by name, each with what applies a value of it."""


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["lots", True, -1, float("inf"), float("nan"), ["1"]])
def test_what_is_no_such_number_is_refused_by_name(networks, name, value):
    with pytest.raises(InputError, match=rf"^{name} is .*; give "):
        NUMBERS[name](Pipeline(networks), value)
