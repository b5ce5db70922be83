"""Lookup of correlation windows by numba: the numbers of torchvision."""

import math
import os
import subprocess
import sys

import pytest
import torch
from support.command_line import ROOT
from support.flows import random_lookup
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.optical_flow.raft import CorrBlock

from variants.kernels import numba_corr


class TestWindows:
    @pytest.mark.slow
    @pytest.mark.parametrize("size", [(16, 16), (16, 17), (19, 33), (23, 16)])
    @pytest.mark.parametrize(("levels", "radius"), [(4, 4), (3, 2), (1, 1)])
    def test_are_torchvisions(self, size, levels, radius):
        first, second, coords = random_lookup(size)
        published = CorrBlock(num_levels=levels, radius=radius)
        published.build_pyramid(first, second)
        expected = published.index_pyramid(coords)
        windows = numba_corr.windows(published.corr_pyramid, radius, coords)
        assert windows.shape == expected.shape and windows.dtype == torch.float32
        assert (windows - expected).abs().max() < 2e-5 * expected.abs().max()

    def test_of_bfloat16_are_rounded_once(self):
        first, second, coords = random_lookup((19, 33))
        published = CorrBlock()
        published.build_pyramid(first, second)
        halves = [volume.bfloat16() for volume in published.corr_pyramid]
        exact = numba_corr.windows([volume.float() for volume in halves], 4, coords)
        assert numba_corr.windows(halves, 4, coords).equal(exact.bfloat16())

    def test_far_outside_is_zero_and_nan_stays(self):
        first, second, coords = random_lookup((16, 16))
        coords[:] = 1e30
        coords[0, 0, 3, 4] = math.nan
        coords[1, 1, 5, 6] = -math.inf
        published = CorrBlock()
        published.build_pyramid(first, second)
        for dtype in (torch.float32, torch.bfloat16):
            windows = numba_corr.windows([volume.to(dtype) for volume in published.corr_pyramid], 4, coords)
            assert windows[0, :, 3, 4].isnan().all()
            windows[0, :, 3, 4] = 0
            assert (windows == 0).all()

    @pytest.mark.slow
    def test_a_second_process_compiles_nothing(self, tmp_path):
        script = (
            "from variants.kernels import numba_corr, numba_gru; numba_gru.compile_now(); numba_corr.compile_now(4)"
        )
        command = [sys.executable, "-c", script]
        kept = []
        for _ in range(2):
            environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
            subprocess.run(command, check=True, cwd=ROOT, env=environment)
            kept.append(sorted(path.name for path in tmp_path.rglob("*.nb?")))
        assert kept[0] == kept[1] and any("kernel" in name for name in kept[0])

    def test_operations_are_counted(self):
        volumes, coords = [torch.randn(16 * 16, 1, 16, 16)], torch.zeros(1, 2, 16, 16)
        with FlopCounterMode(display=False) as counter:
            numba_corr.windows(volumes, 1, coords)
        assert counter.get_total_flops() == 256 * (3 * 3 * 4 + 3 * 9 + 10)

    def test_goes_through_torch_compile(self):
        volumes, coords = [torch.randn(16 * 16, 1, 16, 16)], torch.rand(1, 2, 16, 16) * 16
        compiled = torch.compile(numba_corr.windows, backend="eager", fullgraph=True)
        assert compiled(volumes, 1, coords).equal(numba_corr.windows(volumes, 1, coords))
