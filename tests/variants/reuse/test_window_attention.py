"""Window attention and blocks by a precomputed plan: the published tokens."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.gpu.fake_cuda import counted, on_cuda
from torch._dynamo.utils import counters

from experiments.data import load, sample_clip
from experiments.roofline.fake_cuda import convert
from propainter import DeviceStorage, build_networks, plan_windows
from propainter.inference.interfaces import Scene
from propainter.inference.preparation import as_masks, prepare_masks
from propainter.models.attention import PublishedWindowAttention, SparseWindowAttention, WindowPlan, manual_attention
from propainter.models.transformer import FusionFeedForward, TemporalSparseTransformer, grid_size
from variants.attention import forced_attention, upcast_attention
from variants.reuse import batching as reuse_batches
from variants.reuse.generator import PrecomputedPlans
from variants.reuse.window_attention import (
    PlannedWindowAttention,
    WindowGrid,
    convolve_feed_forward,
    feed_forward,
    run_blocks_once,
)


@pytest.mark.parametrize("pad", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("masked", ["none", "some", "all"])
@pytest.mark.parametrize("grid", [(10, 18), (11, 12), (15, 20)])
def test_attention_is_the_published(grid, masked, pad):
    torch.manual_seed(1)
    layers, tokens = SparseWindowAttention(32, 2), torch.randn(1, 5, *grid, 32)
    mask = {"none": torch.zeros, "all": torch.ones}.get(masked, lambda *size: (torch.rand(size) > 0.98).float())
    token_mask = mask(1, 3, *grid)
    published = WindowPlan(token_mask)
    windows = WindowGrid((3 * grid[0], 3 * grid[1]), grid, pad=pad)
    plan = windows.plan(token_mask, published.masked_windows()[0].numpy(), 3)
    own = PlannedWindowAttention(manual_attention)
    for start in (0, 1):
        frames = slice(start, None, 2)
        expected = PublishedWindowAttention()(layers, tokens, published, frames)
        assert torch.allclose(
            PlannedWindowAttention(manual_attention)(layers, tokens, plan, frames), expected, atol=2e-6
        )
        local = own(layers, tokens, plan.last, frames)
        assert torch.allclose(local, expected[:, :3], atol=2e-6)


def test_autocast_casts_the_tokens_once():
    """Not in each of the layers that they go through."""
    mask = torch.zeros(1, 5, 10, 18)
    mask[..., 3:5, 4:6] = 1
    masked = WindowPlan(mask).masked_windows()[0].numpy()

    def kernels(dtype):
        def run():
            layers, grid = SparseWindowAttention(32, 2), WindowGrid((30, 54), (10, 18))
            convert(layers, lambda x: x.to("cuda"))
            with torch.autocast("cuda", dtype=torch.float16):
                plan = grid.plan(on_cuda(1, 5, 10, 18), masked, 3)
                attend = PlannedWindowAttention(F.scaled_dot_product_attention)
                attend(layers, on_cuda(1, 5, 10, 18, 32, dtype=dtype), plan, slice(0, None, 2))

        with torch.inference_mode(False):
            return counted(run).costs["flow"].kernels

    assert kernels(torch.float32) == kernels(torch.float16) + 1


def shapes_of(plan):
    return plan.masked, *(tuple(x.shape) for x in (plan.order, plan.back, plan.needed, plan.keys))


@pytest.mark.parametrize(("pad", "most"), [(2, 14), (4, 6), (16, 1), (50, 1)])
def test_padded_plans_have_few_shapes(pad, most):
    random, grid = np.random.default_rng(0), WindowGrid((60, 108), (20, 36), pad=pad)
    masks = [random.random(16) < share for share in np.linspace(0, 1, 60)]
    masks += [np.zeros(16, bool), np.ones(16, bool)]
    plans = [grid.plan(torch.zeros(1, 1, 20, 36), masked) for masked in masks]
    assert all(plan.masked >= masked.sum() for plan, masked in zip(plans, masks, strict=True))
    assert len({shapes_of(plan) for plan in plans}) <= most


@pytest.mark.slow
def test_no_limit_of_recompilations_is_reached_on_the_sample():
    """The transformer's shapes in 80 frames at 432x240; torch compiles for 8."""
    clip = load(sample_clip(num_frames=80, height=240, width=432))
    masks = as_masks(prepare_masks(clip.masks > 0, (240, 432), dilation=4), torch.device("cpu"), torch.float32)
    storage = DeviceStorage(torch.device("cpu"))
    storage.put("masks", masks)
    scene = Scene(storage, plan_windows(80))

    def shapes(pad):
        plans = PrecomputedPlans(build_networks().generator, scene, {}, pad)
        token_mask = WindowPlan(torch.zeros(1, 1, 20, 36))
        return {(len(w.local), len(w.frames), shapes_of(plans(w, token_mask))) for w in scene.windows}

    limit = torch._dynamo.config.recompile_limit
    assert len(shapes(None)) > limit >= len(shapes(4))


@pytest.mark.parametrize(
    ("kernel", "most"),
    [
        (manual_attention, 1),
        (upcast_attention, 1),
        (partial(forced_attention, "math"), 1),
        (F.scaled_dot_product_attention, 6),
    ],
)
def test_few_windows_attend_together_where_a_temporary_tensor_would_be_too_large(monkeypatch, kernel, most):
    torch.manual_seed(1)
    layers, tokens, windows = SparseWindowAttention(32, 2), torch.randn(1, 5, 15, 20, 32), []
    published = WindowPlan(torch.ones(1, 5, 15, 20))  # 9 windows of 225 queries and 1,065 keys, 2 heads of 16 channels
    plan = WindowGrid((45, 60), (15, 20)).plan(published.token_mask, published.masked_windows()[0].numpy())
    keys = 5 * plan.keys.shape[1]

    def counted(q, k, v):
        windows.append(len(q))
        return kernel(q, k, v)

    monkeypatch.setitem(reuse_batches.TEMPORARY_BYTES, "cpu", 6 * 2 * 16 * keys * 4)
    planned = PlannedWindowAttention(kernel)
    planned.kernel = counted  # as the first run does, whose memory counts
    output = planned(layers, tokens, plan, slice(None))
    assert sum(windows) == 9 and max(windows) == most
    assert torch.allclose(output, PublishedWindowAttention()(layers, tokens, published, slice(None)), atol=2e-6)


@pytest.mark.slow
def test_transformer_compiles_in_one_graph():
    """No step of it asks the device: nothing breaks the graph. With all windows one graph serves every hole."""
    torch.manual_seed(0)
    transformer = TemporalSparseTransformer(32, 2, 2, 98, (5, 9), 4)
    size, windows = (32, 34), 6
    grid, planned = WindowGrid(size, grid_size(size), pad=windows), PlannedWindowAttention(manual_attention)
    compiled = torch.compile(transformer.forward, backend="eager", fullgraph=True, dynamic=False)
    graphs = counters["stats"]["unique_graphs"]
    for rows, columns in [(slice(3, 5), slice(4, 6)), (slice(0, 11), slice(0, 12)), (slice(0, 0), slice(0, 0))]:
        mask = torch.zeros(1, 2, 11, 12)
        mask[..., rows, columns] = 1
        plan = grid.plan(mask, WindowPlan(mask).masked_windows()[0].numpy(), 2)
        tokens = torch.randn(1, 3, 11, 12, 32)
        expected = transformer(tokens, size, WindowPlan(mask))[:, :2]
        output = compiled(tokens, size, plan, planned, run_blocks_once)
        assert torch.allclose(output, expected, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs + 1


@pytest.mark.parametrize("mix", [feed_forward, convolve_feed_forward])
@pytest.mark.parametrize("size", [(32, 34), (33, 36), (31, 32)])
def test_mlp_is_the_published(mix, size):
    torch.manual_seed(0)
    mlp = FusionFeedForward(32, 98)
    grid = grid_size(size)
    tokens = torch.randn(1, 3, *grid, 32)
    overlap = WindowGrid(size, grid).overlap(tokens.device)
    assert torch.allclose(mix(mlp, tokens, size, overlap), mlp(tokens, size), atol=2e-6)
