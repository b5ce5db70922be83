"""torch.compile of the decoder on the device; last, since compiling takes long. max-autotune takes too long."""

import pytest
from support.options import OF_OPTIONS
from support.reusing import hole_psnr

from variants import GROUPS

LEAST_DB = 50


@pytest.mark.cuda_only
@pytest.mark.parametrize("name", ["default", "reduce_overhead"])
def test_option(options, monkeypatch, name):
    monkeypatch.setitem(OF_OPTIONS, f"compile={name}", ["compile.components=[decoder]"])
    pipeline = options.pipeline({**GROUPS, "compile": name})
    for _ in range(3):
        output = pipeline(options.video, options.masks)
    effective = pipeline.effective["compile"]
    assert effective["components"]["decoder"]["status"] == "compiled"
    assert hole_psnr(output, options.expected(GROUPS), options.masks) >= LEAST_DB
    assert effective["cuda_graphs"].startswith("yes: " if name == "reduce_overhead" else "no: mode default")
