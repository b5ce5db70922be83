"""Each option of each group on three frames of 128x160 against published, and presets as a whole."""

import pytest
import torch
from support.options import Bench, marked, options_of
from support.reusing import hole_psnr

from experiments.measure.runtime_probe import collecting
from propainter import Observer
from propainter.errors import InputError
from variants import GROUPS, UnsupportedError, needs_cuda

LEAST_DB = 50
"""PSNR in the hole in float32, for options that claim the published output. Other shapes of convolutions, other
algorithms of cuDNN: 60 on a CPU."""

LEAST_DB_HALF = 35
"""The same beside half precision, which rounds elsewhere where sums are split."""

LEAST_DB_ELSE = 25
"""For options that claim nothing but compute the same in another precision."""

WITH = {
    ("attention", "sdpa_flash"): {"precision": "amp"},
    ("attention", "sdpa_cudnn"): {"precision": "amp"},
    ("cuda_graphs", "manual"): {"reuse": "exact"},
}
"""What an option needs from other groups: half precision, a flow that can be recorded."""

BACKEND = {"sdpa_flash": "flash_attention", "sdpa_efficient": "efficient_attention", "sdpa_cudnn": "cudnn_attention"}
"""What the operation of a backend of SDPA is called."""

FOR_CPU = {("kernels", "cpu")}

LATER = {"compile"}
"""Compiling takes long: test_compile."""

OPTIONS = [(group, name) for group, names in options_of().items() if group not in LATER for name in names[1:]]
ROWS = {
    "half precision with Triton's kernels": {"kernels": "cuda", "precision": "amp_all", "reuse": "exact"},
    "graphs in half precision": {"cuda_graphs": "manual", "precision": "amp_all", "reuse": "exact"},
    "offload and graphs": {"cuda_graphs": "manual", "residency": "offload", "reuse": "exact"},
}


class Finite(Observer):
    """Asserts that each stage's tensors are finite."""

    def tensors(self, stage: str, **tensors: torch.Tensor) -> None:
        for name, tensor in tensors.items():
            assert tensor.isfinite().all(), f"{stage}: {name}"


def check(options: Bench, row: dict[str, str]) -> dict:
    """Run a row; compare it with what it claims, and return what really ran."""
    pipeline = options.pipeline(row)
    pipeline.observer = Finite()
    with collecting(pipeline) as effective:
        output = pipeline(options.video, options.masks)
    published = {**GROUPS, "precision": row["precision"]}
    fp32 = row["precision"] == GROUPS["precision"]
    decibels = hole_psnr(output, options.expected(row), options.masks)
    assert decibels >= (LEAST_DB if fp32 else LEAST_DB_HALF)
    if not fp32:
        assert hole_psnr(output, options.expected(GROUPS), options.masks) >= LEAST_DB_ELSE
        assert options.expected(published).any()
    return effective


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=map("=".join, OPTIONS))
def test_option(options, device, group, name):
    row = {**GROUPS, **WITH.get((group, name), {}), group: name}
    refused = FOR_CPU if device.type == "cuda" else marked(needs_cuda)
    if (group, name) in refused:
        with pytest.raises((UnsupportedError, InputError)):
            options.run(row)
        return
    effective = check(options, row)
    assert "failed" not in str(effective.get("correlation")) + str(effective.get("kernels"))  # and fell back
    if name in BACKEND:
        assert any(BACKEND[name] in operation for operation in effective["attention"]["ops"])


@pytest.mark.cuda_only
@pytest.mark.parametrize("changes", ROWS.values(), ids=ROWS)
def test_row(options, changes):
    effective = check(options, {**GROUPS, **changes})
    assert "failed" not in str([effective.get(group) for group in ("correlation", "kernels", "cuda_graphs")])
