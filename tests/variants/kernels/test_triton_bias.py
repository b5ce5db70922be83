"""Bias and activation in one kernel: interpreted, compiled for GPUs, and moved about in the networks."""

import copy

import pytest
import torch
from support.gpu.triton_interpreter import cubin
from torch import nn

from propainter.models.layers import UpConv

pytest.importorskip("triton")

from variants.kernels import triton_bias
from variants.kernels.triton_bias import BiasActivation, fuse_biases, torch_bias_act


def launched(x, bias, slope):
    """Return x after the kernel, as another process has a copy of it."""
    triton_bias.launch_bias_act(x, bias, slope, triton_bias._inner(x))
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_gives_what_torch_gives(interpreted, dtype, layout, slope):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 9, 13, generator=random).to(dtype).contiguous(memory_format=layout)
    bias = torch.randn(12, generator=random).to(dtype)
    got, expected = interpreted(launched, x, bias, slope), torch_bias_act(x.float(), bias.float(), slope)
    assert got.dtype == dtype
    # The interpreter cuts bfloat16 off where a GPU rounds.
    assert (got.float() - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_volumes_and_what_is_no_number(interpreted, slope):
    x = torch.zeros(1, 3, 2, 2, 5).contiguous(memory_format=torch.channels_last_3d)
    x[0, 0, 0, 0] = torch.tensor([float("nan"), float("inf"), -float("inf"), -1, 1])
    bias = torch.tensor([0.0, 1.0, -2.0])
    expected = torch_bias_act(x.clone(), bias, slope)
    assert torch.equal(interpreted(launched, x, bias, slope).nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "capability"), [("fp16", 90), ("bf16", 80), ("fp32", 90)])
def test_compiles_for_gpus(dtype, capability):
    types = {"x": f"*{dtype}", "bias": f"*{dtype}", "count": "i32", "inner": "i32"}
    constants = {"CHANNELS": 128, "SLOPE": 0.2, "WIDE": False, "BLOCK": triton_bias.BLOCK}
    assert len(cubin(triton_bias.bias_act_kernel, types, constants, capability)) > 1000


def test_a_layout_with_gaps_is_left_to_torch():
    x = torch.randn(2, 4, 6, 6)
    assert triton_bias._inner(x[:, ::2]) is None
    assert triton_bias._inner(x) == 36
    assert triton_bias._inner(x.contiguous(memory_format=torch.channels_last)) == 1


def near(a, b):
    """Whether both are equal within rounding: on a CPU the convolution adds its bias before it rounds."""
    return (a - b).abs().max() <= 1e-5 * b.abs().max()


class TestFuseBiases:
    def test_each_network_computes_the_same(self, narrow):
        calls = []

        def add(x, bias, slope):
            calls.append(slope)
            return torch_bias_act(x, bias, slope)

        networks = copy.deepcopy(narrow)
        counts = [fuse_biases(part, add) for part in (networks.raft, networks.flow_completion, networks.generator)]
        # RAFT: five convolutions of the motion encoder, flow head, mask predictor; encoders have norms between.
        assert counts[0] == 7
        flow, masks = torch.randn(1, 3, 2, 64, 64), torch.zeros(1, 3, 1, 64, 64)
        with torch.inference_mode():
            assert near(networks.flow_completion(flow, masks), narrow.flow_completion(flow, masks))
            frame = torch.randn(2, 5, 64, 64)
            assert near(networks.generator.encoder(frame), narrow.generator.encoder(frame))
            features = narrow.generator.encoder(frame)
            assert near(networks.generator.decoder(features), narrow.generator.decoder(features))
        assert set(calls) == {0.1, 0.2}

    def test_no_activation_is_left_after_a_bias(self, narrow):
        networks = copy.deepcopy(narrow)
        before = sum(p.numel() for p in networks.generator.parameters())
        fuse_biases(networks.generator, torch_bias_act)
        assert sum(p.numel() for p in networks.generator.parameters()) == before
        left = [m for m in networks.generator.modules() if isinstance(m, nn.LeakyReLU)]
        assert left == []

    def test_what_is_found(self):
        layers = nn.Sequential(
            *(UpConv(2, 3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.3), nn.Conv2d(4, 2, 1))
        )
        assert fuse_biases(layers, torch_bias_act) == 1
        assert isinstance(layers[1], BiasActivation) and layers[0].conv.bias is None
        assert layers[2].bias is not None and layers[5].bias is not None
