"""Lookup of correlation windows by Triton: the numbers of torchvision in the interpreter, and code for GPUs."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from support.flows import random_lookup
from support.gpu.triton_interpreter import cubin
from torchvision.models.optical_flow.raft import CorrBlock

from variants.correlation import OnDemand

pytest.importorskip("triton")

from variants.kernels import triton_corr

DTYPES = {torch.float32: 2e-5, torch.float16: 2**-11, torch.bfloat16: 2**-7}  # the interpreter cuts bfloat16 off


@pytest.fixture(scope="session")
def look_up(interpreted):
    """The kernel in a volume, in few programs: the interpreter's time goes by them."""
    return partial(interpreted, triton_corr.windows, pixels=512)


@pytest.mark.slow
class TestInterpreted:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("size", "levels", "radius"), [((16, 16), 4, 4), ((17, 19), 4, 4), ((5, 7), 2, 2), ((2, 3), 1, 1)]
    )
    def test_windows_are_torchvisions(self, look_up, size, levels, radius, dtype):
        """In and outside the image, on borders, and levels of odd sizes."""
        first, second, coords = random_lookup(size)
        block = CorrBlock(num_levels=levels, radius=radius)
        block.build_pyramid(first, second)
        volumes = [volume.to(dtype) for volume in block.corr_pyramid]
        block.corr_pyramid = [volume.float() for volume in volumes]
        expected = block.index_pyramid(coords)
        windows = look_up(volumes, radius, coords)
        assert windows.shape == expected.shape and windows.dtype == dtype
        assert windows.is_contiguous(memory_format=torch.channels_last)
        assert (windows.float() - expected).abs().max() < DTYPES[dtype] * expected.abs().max()

    def test_coords_of_any_layout(self, look_up):
        first, second, coords = random_lookup((8, 9))
        block = CorrBlock(num_levels=2, radius=1)
        block.build_pyramid(first, second)
        expected = look_up(block.corr_pyramid, 1, coords)
        for other in (coords.contiguous(memory_format=torch.channels_last), coords.repeat(1, 2, 1, 1)[:, 1:3].flip(1)):
            assert look_up(block.corr_pyramid, 1, other).equal(expected)

    @pytest.mark.parametrize("on_demand", [False, True])
    def test_far_outside_is_zero_and_nan_stays(self, interpreted, on_demand):
        first, second, coords = random_lookup((4, 5), channels=8)
        for number, value in enumerate((1e30, -1e30, float("inf"), -float("inf"), 2.0**31)):
            coords[:, 0, :, number] = value
        coords[0, 0, 3, 4] = coords[1, 1, 2, 0] = float("nan")
        windows = self.looked_up(interpreted, on_demand, first, second, coords, 2, 1)
        nan = coords.isnan().any(1, keepdim=True)
        assert windows.isnan().equal(nan.expand_as(windows))
        assert not windows.nan_to_num().any()

    @pytest.mark.parametrize("size", [(4, 5), (7, 4)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_on_demand_is_torchvisions(self, interpreted, size, dtype):
        first, second, coords = random_lookup(size, batch=1, channels=20)
        first, second = first.to(dtype).float(), second.to(dtype).float()
        block = CorrBlock(num_levels=1, radius=2)
        block.build_pyramid(first, second)
        expected = block.index_pyramid(coords)
        windows = self.looked_up(interpreted, True, first.to(dtype), second.to(dtype), coords, 1, 2)
        assert windows.dtype == dtype
        assert (windows.float() - expected).abs().max() < DTYPES[dtype] * expected.abs().max()

    def test_on_demand_on_two_levels(self, interpreted):
        first, second, coords = random_lookup((4, 6), channels=8)
        expected = self.looked_up(interpreted, False, first, second, coords, 2, 1)
        assert (self.looked_up(interpreted, True, first, second, coords, 2, 1) - expected).abs().max() < 1e-5

    def test_more_rows_than_cudnn_takes(self, interpreted):
        volume = torch.randn(66, 1, 32, 32).repeat_interleave(1024, 0).half()
        coords = torch.rand(66, 2, 32, 32) * 40 - 4
        windows = interpreted(triton_corr.windows, [volume], 1, coords, pixels=1024)
        last = slice(65_536, None)
        step = torch.arange(-1, 2)
        around = coords[64:].permute(0, 2, 3, 1).reshape(-1, 1, 1, 2) + torch.stack(
            torch.meshgrid(step, step, indexing="ij"), -1
        )
        expected = F.grid_sample(volume[last].float(), around * (2 / 31) - 1, align_corners=True)
        got = windows.permute(0, 2, 3, 1).reshape(-1, 9)[last]
        assert (got.float() - expected.flatten(1)).abs().max() < 2e-3 * expected.abs().max()

    @staticmethod
    def looked_up(interpreted, on_demand, first, second, coords, levels, radius):
        if on_demand:
            block = OnDemand(levels, radius)
            block.build_pyramid(first, second)
            rows = [rows for _, rows in block.levels]
            return interpreted(triton_corr.windows_on_demand, block.features, rows, radius, coords)
        block = CorrBlock(num_levels=levels, radius=radius)
        block.build_pyramid(first, second)
        return interpreted(triton_corr.windows, block.corr_pyramid, radius, coords, pixels=512)


SIZES = {
    "windows_kernel": {"SIDE": 9, "TAPS": 128, "PIXELS": 4},
    "windows_on_demand_kernel": {"SIDE": 9, "POSITIONS": 128, "PIXELS": 8, "TOTAL": 256, "CHANNELS": 32},
}


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "capability"), [("fp16", 90), ("bf16", 80)])
@pytest.mark.parametrize("name", SIZES)
def test_compiles_for_gpus(name, dtype, capability):
    kernel, sizes = getattr(triton_corr, name), SIZES[name]
    types = {"coords": "*fp32", "features": f"*{dtype}", "output": f"*{dtype}", "factor": "fp32"}
    types |= {f"level{level}": f"*{dtype}" for level in range(4)}
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    assert cubin(kernel, signature, sizes, capability).startswith(b"\x7fELF")
