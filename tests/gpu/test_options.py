"""Each option of each group on three frames of 128x160 against published, and presets as a whole."""

import pytest
import torch
from support.configs import composed
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
    ("attention", "sdpa_flash_first"): {"precision": "amp"},
    ("attention", "sdpa_cudnn"): {"precision": "amp"},
    ("cuda_graphs", "manual"): {"reuse": "exact"},
}
"""What an option needs from other groups: half precision, a flow that can be recorded."""

BACKENDS = {"sdpa_flash_first": "flash"} | {f"sdpa_{name}": name for name in ("flash", "efficient", "cudnn", "math")}

FOR_CPU = {("kernels", "cpu"), ("runtime", "openvino"), ("quantization", "int8_static")}

OPTIONAL = ("runtime", "quantization")
"""Groups that need packages which a GPU machine may lack, or a processor or a card of some kind: skipped without."""

LATER = {("runtime", "aoti")}
"""Compiling takes minutes. The group `compile` is in test_compile."""

OPTIONS = [
    (group, name)
    for group, names in options_of().items()
    for name in names[1:]
    if group != "compile" and (group, name) not in LATER
]
ROWS = {
    "half precision with Triton's kernels": {"kernels": "cuda", "precision": "amp_all", "reuse": "exact"},
    "graphs with offload": {"cuda_graphs": "manual", "residency": "offload", "reuse": "exact"},
}
RECORDED = ("flow", "completion", "generation")


class Finite(Observer):
    """Asserts that each stage's tensors are finite."""

    def tensors(self, stage: str, **tensors: torch.Tensor) -> None:
        for name, tensor in tensors.items():
            assert tensor.isfinite().all(), f"{stage}: {name}"


def check(options: Bench, row: dict[str, str]) -> dict:
    """Run a row; compare it with what it claims, and return what really ran."""
    pipeline = options.pipeline(row)
    pipeline.observer = Finite()
    graphs = row["cuda_graphs"] == "manual"
    with collecting(pipeline) as effective:
        for _ in range(3 if graphs else 1):
            output = pipeline(options.video, options.masks)
    fp32 = row["precision"] == GROUPS["precision"] and row["quantization"] == GROUPS["quantization"]
    decibels = hole_psnr(output, options.expected(row), options.masks)
    assert decibels >= (LEAST_DB if fp32 else LEAST_DB_HALF)
    if not fp32:
        assert hole_psnr(output, options.expected(GROUPS), options.masks) >= LEAST_DB_ELSE
    fell_back = [effective.get(group) for group in ("correlation", "kernels", "cuda_graphs")]
    assert "failed" not in str(fell_back)
    if graphs:
        assert [effective["cuda_graphs"][stage]["replays"] > 0 for stage in RECORDED] == [True] * 3
    return effective


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=map("=".join, OPTIONS))
def test_option(options, device, group, name):
    row = {**GROUPS, **WITH.get((group, name), {}), group: name}
    refused = FOR_CPU if device.type == "cuda" else marked(needs_cuda)
    if (group, name) in refused:
        with pytest.raises((UnsupportedError, InputError)):
            options.run(row)
        return
    try:
        effective = check(options, row)
    except UnsupportedError as error:
        if group not in OPTIONAL:
            raise
        pytest.skip(str(error))
    if name in BACKENDS:
        assert effective["attention"]["backend"] == BACKENDS[name]


@pytest.mark.cuda_only
@pytest.mark.parametrize("changes", ROWS.values(), ids=ROWS)
def test_row(options, changes):
    check(options, {**GROUPS, **changes})


@pytest.mark.cuda_only
@pytest.mark.parametrize("name", ["fast_cuda", "fast_cuda_torch"])
def test_preset(options, name):
    choices = composed(f"preset={name}").hydra.runtime.choices
    check(options, {group: choices[group] for group in GROUPS})
