"""Attention and precision: each option is seen to be in effect, and stays near the reference."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from experiments.data import load, sample_clip
from experiments.measure.runtime_probe import collecting
from propainter import STAGES, InputError, Pipeline, Schedule
from propainter.inference.preparation import prepare_masks
from propainter.models.attention import manual_attention
from variants import UnsupportedError, attention, precision
from variants.components import COMPONENTS

QUICK = Schedule(raft_iterations=2)
GENERATOR = ("encoder", "feature_propagation", "transformer", "decoder")


@pytest.fixture(scope="module")
def clip():
    return load(sample_clip(num_frames=3, height=128, width=128))


@pytest.fixture(scope="module")
def reference(networks, clip):
    return precision.fp32(Pipeline(networks, QUICK))(clip.frames, clip.masks)


@pytest.fixture
def ran(networks, clip, reference):
    """ran(variant, ...) applies variants to a pipeline of its own: what was effective, and the PSNR in the hole."""

    def run(*variants):
        pipeline = Pipeline(copy.deepcopy(networks), QUICK)
        for variant in variants:
            pipeline = variant(pipeline)
        with collecting(pipeline) as effective:
            result = pipeline(clip.frames, clip.masks)
        hole = prepare_masks(clip.masks > 0, clip.masks.shape[1:], QUICK.mask_dilation) > 0
        mean_square = np.mean((result.astype(float) - reference)[hole] ** 2)
        return effective, 10 * np.log10(255**2 / max(mean_square, 1e-9))

    return run


def dtypes(effective) -> dict[str, list[str]]:
    assert set(effective["dtypes"]) == set(COMPONENTS)
    return {component: effective["dtypes"][component] for component in COMPONENTS}


ALL_FP32 = dict.fromkeys(COMPONENTS, ["float32"])


class TestAttention:
    @pytest.mark.slow
    def test_manual(self, ran):
        effective, psnr_db = ran(attention.manual)
        assert effective["attention"]["ops"] == ["bmm.float32", "mul.float32", "_softmax.float32"]
        assert effective["attention"]["backend"] is None
        assert psnr_db > 90

    @pytest.mark.slow
    def test_manual_upcast(self, ran):
        """Its products are in float32 even where everything around is not."""
        effective, psnr_db = ran(attention.manual_upcast)
        assert psnr_db > 60
        effective, _ = ran(attention.manual_upcast, precision.amp)
        products = [name for name in effective["attention"]["ops"] if name.startswith("bmm")]
        assert products == ["bmm.float32"]
        effective, _ = ran(attention.manual, precision.amp)
        products = [name for name in effective["attention"]["ops"] if name.startswith("bmm")]
        assert products == ["bmm.bfloat16"]

    @pytest.mark.slow
    def test_sdpa(self, ran):
        effective, psnr_db = ran(attention.sdpa)
        assert effective["attention"]["ops"] == ["_scaled_dot_product_flash_attention_for_cpu.float32"]
        assert psnr_db > 60

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("backend", "operation"),
        [("flash", "_scaled_dot_product_flash_attention_for_cpu"), ("math", "_scaled_dot_product_attention_math")],
    )
    def test_forced(self, ran, backend, operation):
        effective, psnr_db = ran(lambda pipeline: attention.sdpa(pipeline, backend))
        assert f"{operation}.float32" in effective["attention"]["ops"]
        assert effective["attention"]["backend"] == backend
        assert psnr_db > 60

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["efficient", "cudnn"])
    def test_forced_and_not_here(self, ran, backend):
        with pytest.raises(UnsupportedError, match=f"{backend} backend can't run on cpu with torch.float32: .*backend"):
            ran(lambda pipeline: attention.sdpa(pipeline, backend))

    def test_other_errors_are_not_taken_for_unsupported(self):
        with pytest.raises(RuntimeError, match="size|shape"):
            attention.forced_attention(
                "math", torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 3, 9), torch.zeros(1, 1, 3, 9)
            )

    def test_gradients_agree(self):
        generator = torch.Generator().manual_seed(0)
        shapes = ((2, 4, 30, 16), (2, 4, 50, 16), (2, 4, 50, 16))
        inputs = [torch.randn(shape, generator=generator) for shape in shapes]
        gradients = []
        for kernel in (manual_attention, F.scaled_dot_product_attention, attention.upcast_attention):
            leaves = [x.clone().requires_grad_() for x in inputs]
            kernel(*leaves).square().sum().backward()
            gradients.append([x.grad for x in leaves])
        for other in gradients[1:]:
            for expected, got in zip(gradients[0], other, strict=True):
                assert torch.allclose(expected, got, rtol=1e-4, atol=1e-5)


class TestPrecision:
    @pytest.mark.slow
    def test_fp32(self, ran):
        effective, psnr_db = ran(precision.fp32)
        assert dtypes(effective) == ALL_FP32
        assert effective["tf32"] == dict.fromkeys(STAGES, False)
        assert psnr_db > 90

    def test_tf32_flags_are_set_and_put_back(self):
        backends = precision.TF32_BACKENDS
        before = [backend.fp32_precision for backend in backends]
        for allowed, value in ((True, "tf32"), (False, "ieee")):
            with precision.tf32_flags(allowed):
                assert [backend.fp32_precision for backend in backends] == [value] * 3
            assert [backend.fp32_precision for backend in backends] == before

    @pytest.mark.slow
    def test_fp32_whatever_the_flags_are_outside(self, ran):
        with precision.tf32_flags(True):
            effective, _ = ran(precision.fp32)
        assert effective["tf32"] == dict.fromkeys(STAGES, False)

    @pytest.mark.slow
    @pytest.mark.parametrize("variant", [precision.amp, lambda p: precision.amp(p, "bfloat16")])
    def test_amp(self, ran, variant):
        effective, psnr_db = ran(variant)
        assert dtypes(effective) == ALL_FP32 | dict.fromkeys(GENERATOR, ["bfloat16"])
        assert list(effective["ops_in_fp32"]) == ["feature_propagation.deform_conv2d"]
        assert 30 < psnr_db < 70

    @pytest.mark.slow
    def test_amp_all(self, ran):
        effective, psnr_db = ran(lambda pipeline: precision.amp(pipeline, everything=True))
        assert dtypes(effective) == dict.fromkeys(COMPONENTS, ["bfloat16"])
        assert len(effective["ops_in_fp32"]) == 2
        assert 30 < psnr_db < 70

    @pytest.mark.slow
    @pytest.mark.parametrize("component", COMPONENTS)
    def test_per_component(self, ran, component):
        chosen = dict.fromkeys(COMPONENTS, "float32") | {component: None}
        effective, psnr_db = ran(lambda pipeline: precision.per_component(pipeline, chosen))
        assert dtypes(effective) == ALL_FP32 | {component: ["bfloat16"]}
        assert 30 < psnr_db < 90

    @pytest.mark.parametrize(
        ("variant", "reason"),
        [
            (precision.half, "30 to 100 times slower"),
            (precision.tf32, "capability 8.0"),
            (lambda pipeline: precision.amp(pipeline, "float16"), "give bfloat16"),
        ],
    )
    def test_not_on_the_cpu(self, networks, variant, reason):
        with pytest.raises(UnsupportedError, match=reason):
            variant(Pipeline(networks))

    def test_wrong_names(self, networks):
        with pytest.raises(InputError, match="'int8'"):
            precision.amp(Pipeline(networks), "int8")
        with pytest.raises(InputError, match="'tail'; give some of raft"):
            precision.per_component(Pipeline(networks), {"tail": None})


def test_collecting_leaves_nothing_behind(networks, clip):
    pipeline = Pipeline(networks, QUICK)
    before = (pipeline.window_attention, pipeline.window_attention.kernel, pipeline.observer)
    with pytest.raises(ZeroDivisionError), collecting(pipeline):
        raise ZeroDivisionError
    assert (pipeline.window_attention, pipeline.window_attention.kernel, pipeline.observer) == before
    modules = [m for name in ("raft", "flow_completion", "generator") for m in getattr(networks, name).modules()]
    assert not any(module._forward_hooks for module in modules)
