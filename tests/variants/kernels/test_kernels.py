"""`kernels=cpu`: the same numbers another way; and layers computed around the hole only."""

import copy
import platform
import sys
from functools import partial

import pytest
import torch
from support.reusing import QUICK, clip, hole_psnr, video_tensor

from propainter import Pipeline, Schedule
from propainter.models.flow_completion import predict_flow
from variants import UnsupportedError, correlation, kernels, precision, raft_scale, reuse
from variants.kernels import gru_op, numba_corr, numba_gru, numba_math


@pytest.mark.parametrize("bound", [0, 2**30])
def test_directions_together_give_what_they_give_apart(narrow, monkeypatch, bound):
    """Both in one call of the network where they are small, else in two."""
    random = torch.Generator().manual_seed(0)
    flows = torch.randn(1, 4, 2, 64, 64, generator=random), torch.randn(1, 4, 2, 64, 64, generator=random)
    masks = (torch.rand(1, 5, 1, 64, 64, generator=random) > 0.7).float()
    calls = []

    def network(*inputs):
        calls.append(len(inputs[0]))
        return narrow.flow_completion(*inputs)

    monkeypatch.setattr(kernels, "DIRECTIONS_TOGETHER_BYTES", bound)
    for got, expected in zip(
        kernels.predict_together(network, flows, masks), predict_flow(network, flows, masks), strict=True
    ):
        assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    assert calls == ([2, 1, 1] if bound else [1, 1, 1, 1])


class TestPipeline:
    @pytest.mark.slow
    @pytest.mark.parametrize("part", ["none", "flow", "exact"])
    def test_gives_the_published_output(self, narrow, part):
        video, masks = clip()
        expected = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
        pipeline = Pipeline(copy.deepcopy(narrow), QUICK)
        if part != "none":
            getattr(reuse, part)(pipeline)
        pipeline = kernels.cpu(pipeline)
        identity = pipeline.flow_estimator.identity
        assert numba_math.identity() in identity
        assert hole_psnr(pipeline(video, masks), expected, masks) > 60
        stats = pipeline.effective["kernels"]
        assert stats["windows"] == "numba"
        assert stats["recurrent"] == ("torch, inside the published network" if part == "none" else "numba")
        for network in (pipeline.networks.generator, pipeline.networks.flow_completion):
            assert any(w.dim() == 4 and not w.is_contiguous() for w in network.parameters())
        assert stats["linear"].startswith("19 layers")
        assert stats["no_heap_trim"] == (platform.libc_ver()[0] == "glibc")

    @pytest.mark.slow
    @pytest.mark.parametrize("once", [False, True])
    def test_golden_flow(self, networks, golden, once):
        data = golden.tensors("raft")
        pipeline = Pipeline(copy.deepcopy(networks), Schedule(raft_iterations=6))
        estimate = kernels.cpu(reuse.flow(pipeline) if once else pipeline).flow_estimator
        for got, name in zip(estimate(data["frames"][None] / 127), ("flow", "flow_b"), strict=True):
            assert (got[0, ..., ::2, ::2] - data[name]).abs().max() < 2e-5 * data[name].abs().max()

    def test_the_loop_runs(self, narrow, monkeypatch):
        """In every update, of the volume's own dtype; what the recurrent units are fed is in it too."""
        dtypes, loop, gates = [], numba_corr.windows, gru_op.gates

        def watched(volumes, radius, coords):
            dtypes.append(volumes[0].dtype)
            return loop(volumes, radius, coords)

        def watched_gates(*inputs):
            units.append({x.dtype for x in inputs})
            return gates(*inputs)

        units = []
        monkeypatch.setattr(gru_op, "GATING", gru_op.GATING._replace(gates=watched_gates))
        monkeypatch.setattr(numba_corr, "windows", watched)
        video, masks = clip(3)
        pipeline = reuse.exact(precision.amp(Pipeline(copy.deepcopy(narrow), QUICK), everything=True))
        kernels.cpu(pipeline)(video, masks)
        assert dtypes == [torch.bfloat16] * QUICK.raft_iterations
        assert units == [{torch.bfloat16}] * 2 * QUICK.raft_iterations

    def test_a_dtype_of_the_transformer_is_kept(self, narrow):
        """Its modules are wrapped for it: tokens are cut in it, too."""
        pipeline = precision.per_component(Pipeline(copy.deepcopy(narrow), QUICK), {"transformer": "bfloat16"})
        kernels.cpu(reuse.exact(pipeline))
        assert pipeline.effective["kernels"]["tokens"] == "cut as published, by a wrapped module"
        dtypes = []
        pipeline.networks.generator.ss.embedding.register_forward_hook(lambda m, i, output: dtypes.append(output.dtype))
        pipeline(*clip(3))
        assert set(dtypes) == {torch.bfloat16}

    def test_flow_with_gradients_on(self, narrow):
        with torch.inference_mode(False):
            estimate = kernels.cpu(Pipeline(copy.deepcopy(narrow), QUICK)).flow_estimator
            flow, _ = estimate(video_tensor(2))
        assert flow.requires_grad and flow.isfinite().all()

    @pytest.mark.slow
    def test_on_demand_has_no_volume(self, narrow):
        pipeline = kernels.cpu(reuse.exact(correlation.on_demand(Pipeline(copy.deepcopy(narrow), QUICK))))
        assert pipeline.effective["kernels"]["windows"] == "torch, since OnDemand has no volume"
        assert pipeline.effective["kernels"]["recurrent"].startswith("numba, not called")
        video, masks = clip(3)
        expected = Pipeline(copy.deepcopy(narrow), QUICK)(video, masks)
        assert hole_psnr(pipeline(video, masks), expected, masks) > 60
        assert pipeline.effective["kernels"]["recurrent"] == "numba"

    def test_a_wrapped_update_block_runs_as_it_is(self, narrow):
        pipeline = precision.per_component(Pipeline(copy.deepcopy(narrow), QUICK), {"raft": "bfloat16"})
        kernels.cpu(reuse.exact(pipeline))(*clip(3))
        assert pipeline.effective["kernels"]["recurrent"].startswith("numba, not called: RAFT's update block is wrap")
        assert pipeline.effective["reuse"]["flow"]["context"].startswith("in every update")

    def test_another_estimator_is_refused(self, narrow):
        with pytest.raises(UnsupportedError, match="not to ScaledFlow"):
            kernels.cpu(raft_scale.scaled(Pipeline(copy.deepcopy(narrow), QUICK), 0.5))

    @pytest.mark.parametrize("set_precision", [precision.fp32, partial(precision.amp, everything=True)])
    def test_compiles_what_the_flow_stage_calls_and_no_more(self, narrow, monkeypatch, set_precision):
        asked = []

        def noted(name, compiled, *key):
            asked.append((name, *key))
            return compiled(*key)

        for module, name in ((numba_corr, "windows_kernel"), (numba_gru, "gates_kernel"), (numba_gru, "blend_kernel")):
            monkeypatch.setattr(module, name, partial(noted, name, getattr(module, name)))
        pipeline = kernels.cpu(reuse.exact(set_precision(Pipeline(copy.deepcopy(narrow), QUICK))))
        built = set(asked)
        pipeline(*clip(3))
        assert len(built) == 3
        assert set(asked) == built

    def test_nowhere_to_keep_what_is_compiled(self, narrow, monkeypatch):
        def nowhere(radius, dtypes):
            raise RuntimeError("cannot cache function: no locator available")

        monkeypatch.setattr(numba_corr, "compile_now", nowhere)
        pipeline = Pipeline(copy.deepcopy(narrow), QUICK)
        with pytest.raises(UnsupportedError, match="no locator available; set NUMBA_CACHE_DIR"):
            kernels.cpu(pipeline)
        assert "forward" not in vars(pipeline.networks.generator.ss)  # nothing half-changed

    def test_without_numba_it_says_what_to_install(self, narrow, monkeypatch):
        monkeypatch.setitem(sys.modules, "variants.kernels.numba_corr", None)
        monkeypatch.delattr("variants.kernels.numba_corr")
        with pytest.raises(UnsupportedError, match="pip install numba"):
            kernels.cpu(Pipeline(copy.deepcopy(narrow), QUICK))
