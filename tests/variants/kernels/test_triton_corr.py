"""Lookup of correlation windows by Triton: the numbers of torchvision in the interpreter, and code for GPUs."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from support.command_line import ROOT
from support.flows import random_lookup
from torchvision.models.optical_flow.raft import CorrBlock

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from variants.correlation import OnDemand  # noqa: E402
from variants.kernels import triton_corr  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_interpreter = pytest.mark.skipif(not INTERPRETED, reason="in a process of its own, which runs these tests")
DTYPES = {torch.float32: 2e-5, torch.float16: 2**-11, torch.bfloat16: 2**-7}  # the interpreter cuts bfloat16 off


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="runs the others")
def test_in_the_interpreter():
    """Triton decides at its import whether it interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert "skipped" in ended.stdout and "passed" in ended.stdout


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter's time goes by programs."""
    monkeypatch.setattr(triton_corr, "PIXELS", 512)


@in_interpreter
class TestInterpreted:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("size", "levels", "radius"), [((16, 16), 4, 4), ((17, 19), 4, 4), ((5, 7), 2, 2), ((2, 3), 1, 1)]
    )
    def test_windows_are_torchvisions(self, size, levels, radius, dtype):
        """In and outside the image, on borders, and levels of odd sizes."""
        first, second, coords = random_lookup(size)
        block = CorrBlock(num_levels=levels, radius=radius)
        block.build_pyramid(first, second)
        volumes = [volume.to(dtype) for volume in block.corr_pyramid]
        block.corr_pyramid = [volume.float() for volume in volumes]
        expected = block.index_pyramid(coords)
        windows = triton_corr.windows(volumes, radius, coords)
        assert windows.shape == expected.shape and windows.dtype == dtype
        assert windows.is_contiguous(memory_format=torch.channels_last)
        assert (windows.float() - expected).abs().max() < DTYPES[dtype] * expected.abs().max()

    def test_coords_of_any_layout(self):
        first, second, coords = random_lookup((8, 9))
        block = CorrBlock(num_levels=2, radius=1)
        block.build_pyramid(first, second)
        expected = triton_corr.windows(block.corr_pyramid, 1, coords)
        for other in (coords.contiguous(memory_format=torch.channels_last), coords.repeat(1, 2, 1, 1)[:, 1:3].flip(1)):
            assert triton_corr.windows(block.corr_pyramid, 1, other).equal(expected)

    @pytest.mark.parametrize("on_demand", [False, True])
    def test_far_outside_is_zero_and_nan_stays(self, on_demand):
        first, second, coords = random_lookup((4, 5), channels=8)
        for number, value in enumerate((1e30, -1e30, float("inf"), -float("inf"), 2.0**31)):
            coords[:, 0, :, number] = value
        coords[0, 0, 3, 4] = coords[1, 1, 2, 0] = float("nan")
        windows = self.looked_up(on_demand, first, second, coords, 2, 1)
        nan = coords.isnan().any(1, keepdim=True)
        assert windows.isnan().equal(nan.expand_as(windows))
        assert not windows.nan_to_num().any()

    @pytest.mark.parametrize("size", [(4, 5), (7, 4)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_on_demand_is_torchvisions(self, size, dtype):
        first, second, coords = random_lookup(size, batch=1, channels=20)
        first, second = first.to(dtype).float(), second.to(dtype).float()
        block = CorrBlock(num_levels=1, radius=2)
        block.build_pyramid(first, second)
        expected = block.index_pyramid(coords)
        windows = self.looked_up(True, first.to(dtype), second.to(dtype), coords, 1, 2)
        assert windows.dtype == dtype
        assert (windows.float() - expected).abs().max() < DTYPES[dtype] * expected.abs().max()

    def test_on_demand_on_two_levels(self):
        first, second, coords = random_lookup((4, 6), channels=8)
        expected = self.looked_up(False, first, second, coords, 2, 1)
        assert (self.looked_up(True, first, second, coords, 2, 1) - expected).abs().max() < 1e-5

    def test_more_rows_than_cudnn_takes(self, monkeypatch):
        monkeypatch.setattr(triton_corr, "PIXELS", 1024)
        volume = torch.randn(66, 1, 32, 32).repeat_interleave(1024, 0).half()
        coords = torch.rand(66, 2, 32, 32) * 40 - 4
        windows = triton_corr.windows([volume], 1, coords)
        last = slice(65_536, None)
        step = torch.arange(-1, 2)
        around = coords[64:].permute(0, 2, 3, 1).reshape(-1, 1, 1, 2) + torch.stack(
            torch.meshgrid(step, step, indexing="ij"), -1
        )
        expected = F.grid_sample(volume[last].float(), around * (2 / 31) - 1, align_corners=True)
        got = windows.permute(0, 2, 3, 1).reshape(-1, 9)[last]
        assert (got.float() - expected.flatten(1)).abs().max() < 2e-3 * expected.abs().max()

    @staticmethod
    def looked_up(on_demand, first, second, coords, levels, radius):
        if on_demand:
            block = OnDemand(levels, radius)
            block.build_pyramid(first, second)
            rows = [rows for _, rows in block.levels]
            return triton_corr.windows_on_demand(block.features, rows, radius, coords)
        block = CorrBlock(num_levels=levels, radius=radius)
        block.build_pyramid(first, second)
        return triton_corr.windows(block.corr_pyramid, radius, coords)


SIZES = {
    "windows_kernel": {"SIDE": 9, "TAPS": 128, "PIXELS": 4},
    "windows_on_demand_kernel": {"SIDE": 9, "POSITIONS": 128, "PIXELS": 8, "TOTAL": 256, "CHANNELS": 64},
}


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", SIZES)
def test_compiles_for_gpus(monkeypatch, tmp_path, name, dtype, capability):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, sizes = getattr(triton_corr, name), SIZES[name]
    kinds = {"coords": "*fp32", "features": f"*{dtype}", "output": f"*{dtype}", "factor": "fp32"}
    kinds |= {f"level{level}": f"*{dtype}" for level in range(4)} | dict.fromkeys(sizes, "constexpr")
    signature = {argument: kinds.get(argument, "i32") for argument in kernel.arg_names}
    constants = {(kernel.arg_names.index(size),): value for size, value in sizes.items()}
    pointers = [(number,) for number, kind in enumerate(signature.values()) if kind.startswith("*")]
    aligned = dict.fromkeys(pointers, [["tt.divisibility", 16]])
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"].startswith(b"\x7fELF")
