"""Gates and blend of RAFT's recurrent units by numba: the numbers of torch."""

import math

import pytest
import torch

from variants.kernels import gru_op
from variants.kernels import numba_gru as _implements_it  # noqa: F401
from variants.reuse import conv_gru


class TestRecurrentUnits:
    @staticmethod
    def _inputs(dtype=torch.float32, spread=3.0, channels=20, motion=12):
        torch.manual_seed(1)
        wide = (2 * channels, 2 * channels, channels, motion, channels, channels)
        return [(spread * torch.randn(2, c, 5, 7)).to(dtype) for c in wide]

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("spread", [0.01, 3.0, 200.0])
    def test_are_torchs(self, layout, spread):
        summed, share, state, motion, new, new_share = self._inputs(spread=spread)
        summed, new = (x.contiguous(memory_format=layout) for x in (summed, new))
        got = [*gru_op.gates(summed, share, state, motion)]
        got.append(gru_op.blend(new, new_share, state, got[0]))
        expected = [*conv_gru.gates(summed, share, state, motion)]
        expected.append(conv_gru.blend(new, new_share, state, expected[0]))
        for a, b in zip(got, expected, strict=True):
            assert a.shape == b.shape and (a - b).abs().max() < 5e-7 * max(1.0, spread)

    def test_of_bfloat16_are_rounded_once(self):
        summed, share, state, motion, new, new_share = halves = self._inputs(torch.bfloat16)
        exact = [x.float() for x in halves]
        for a, b in zip(gru_op.gates(*halves[:4]), gru_op.gates(*exact[:4]), strict=True):
            assert a.equal(b.bfloat16())
        update = torch.rand_like(state)
        got = gru_op.blend(new, new_share, state, update)
        assert got.equal(gru_op.blend(*(x.float() for x in (new, new_share, state, update))).bfloat16())

    def test_over_the_whole_range(self):
        x = torch.cat([torch.linspace(-100, 100, 200_000), torch.linspace(-1, 1, 200_000)]).view(1, 1, -1, 1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        assert (gru_op.blend(x, zero, zero, one) - x.double().tanh()).abs().max() < 2e-7
        update, _ = gru_op.gates(torch.cat([x, x], 1), torch.cat([zero, zero], 1), one, one)
        assert (update - x.double().sigmoid()).abs().max() < 2e-7

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_nan_stays_and_infinity_is_an_end(self, dtype):
        x = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype).view(1, 3, 1, 1)
        zero = torch.zeros_like(x)
        new = gru_op.blend(x, zero, zero, torch.ones_like(x)).flatten()
        assert new[0].isnan() and new[1:].tolist() == [1, -1]
        update, _ = gru_op.gates(torch.cat([x, x], 1), torch.cat([zero, zero], 1), zero, zero)
        update = update.flatten()
        assert update[0].isnan() and update[1] == 1 and 0 <= update[2] < 1e-37

    def test_go_through_torch_compile(self):
        *inputs, new, new_share = self._inputs()

        def unit(summed, share, state, motion):
            update, both = gru_op.gates(summed, share, state, motion)
            return both, gru_op.blend(new, new_share, state, update)

        compiled = torch.compile(unit, backend="eager", fullgraph=True)
        assert all(a.equal(b) for a, b in zip(compiled(*inputs), unit(*inputs), strict=True))
