"""`reuse` in the generator: what is computed once, and that each of its parts is the published one's equal."""

import copy
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.reusing import clip, counting
from torchvision.ops import deform_conv2d

from propainter import Pipeline, Schedule, plan_windows
from propainter.inference.compositing import Compositor
from propainter.models.attention import PublishedWindowAttention, SparseWindowAttention, WindowPlan, manual_attention
from propainter.models.transformer import FusionFeedForward, TemporalSparseTransformer, grid_size
from variants import UnsupportedError, attention, reuse
from variants.attention import forced_attention, upcast_attention
from variants.reuse import batching as reuse_batches
from variants.reuse.deform_conv import sampled_deform_conv
from variants.reuse.generator import DeviceCompositor, RefCountedFrames
from variants.reuse.window_attention import (
    PlannedWindowAttention,
    WindowGrid,
    convolve_feed_forward,
    feed_forward,
    run_blocks_once,
)

QUICK = Schedule(raft_iterations=3, neighbor_length=4, ref_stride=3)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


class TestGenerator:
    def test_each_frame_is_encoded_and_each_reference_cut_once(self, narrow):
        networks = copy.deepcopy(narrow)
        pipeline = reuse.exact(Pipeline(networks, QUICK))
        windows = plan_windows(8, QUICK.neighbor_length, QUICK.ref_stride)
        references = [window.references for window in windows]
        local = sum(len(window.local) for window in windows)
        generator = networks.generator
        blocks = generator.transformers.transformer
        with counting(
            generator.encoder, generator.ss.embedding, blocks[0].attention.proj, blocks[-1].attention.proj
        ) as counts:
            pipeline(*clip())
        everything = sum(len(window.frames) for window in windows)
        distinct = len({t for numbers in references for t in numbers})
        assert counts == [8, local + distinct, everything, local]
        assert pipeline.effective["reuse"]["features"]["made"] == 8
        assert pipeline.effective["reuse"]["tokens"]["made"] == distinct < sum(map(len, references))

    def test_kernel_runs_twice_per_block(self, narrow):
        shapes = []

        def counted(q, k, v):
            shapes.append((q.shape, k.shape))
            return manual_attention(q, k, v)

        pipeline = attention.use_kernel(Pipeline(copy.deepcopy(narrow), QUICK), counted)
        reuse.attention(pipeline)(*clip(3))
        # 3 frames, 2 windows of the schedule, all frames local in both; 3 blocks; 15 x 18 tokens in 3 x 2 windows.
        windows = plan_windows(3, QUICK.neighbor_length, QUICK.ref_stride)
        assert len(shapes) == 2 * 3 * len(windows)
        (masked, keys), (others, _) = shapes[:2]
        assert masked[2] == 3 * 45
        assert keys[2] == 2 * (45 + 148 + 12)
        assert masked[0] + others[0] / 3 == 6
        assert pipeline.effective["reuse"]["attention"]["windows"] == 6 * len(windows)

    @pytest.mark.parametrize("count", [24, 400])
    def test_only_what_is_still_needed_is_kept(self, count):
        said = {}
        windows = plan_windows(count)
        kept, made = RefCountedFrames((window.frames for window in windows), said), Counter()

        def make(numbers):
            made.update(numbers)
            return torch.tensor(numbers, dtype=torch.int16)[None]

        for window in windows:
            assert kept.take(window.frames, make)[0].tolist() == window.frames
        assert set(made.values()) == {1}
        assert said["made"] == len(made) == count
        # A window's local frames and references, and what was local and will be a reference again.
        assert said["kept_bytes"] <= 2 * (11 + 16 + 1)
        assert not kept._kept

    def test_compositor_is_the_published(self):
        frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        masks = np.random.default_rng(1).integers(0, 2, (3, 8, 8), dtype=np.uint8)
        one, other = Compositor(frames, masks), DeviceCompositor(frames, masks)
        for numbers in ([0, 1], [1, 2], [0, 1, 2]):
            prediction = torch.rand(len(numbers), 3, 8, 8) * 2 - 1
            one.add(numbers, prediction)
            other.add(numbers, prediction)
        assert np.array_equal(one.result(), other.result())

    def test_no_kernel_no_reuse_of_attention(self, narrow):
        pipeline = Pipeline(narrow, window_attention=lambda *args: None)
        with pytest.raises(UnsupportedError, match="inner kernel"):
            reuse.attention(pipeline)


@pytest.mark.parametrize("masked", ["none", "some", "all"])
@pytest.mark.parametrize("grid", [(10, 18), (11, 12), (15, 20)])
def test_attention_is_the_published(grid, masked):
    torch.manual_seed(1)
    layers, tokens = SparseWindowAttention(32, 2), torch.randn(1, 5, *grid, 32)
    mask = {"none": torch.zeros, "all": torch.ones}.get(masked, lambda *size: (torch.rand(size) > 0.98).float())
    token_mask = mask(1, 3, *grid)
    published = WindowPlan(token_mask)
    plan = WindowGrid((3 * grid[0], 3 * grid[1]), grid).plan(token_mask, published.masked_windows()[0].numpy(), 3)
    own = PlannedWindowAttention(manual_attention)
    for start in (0, 1):
        frames = slice(start, None, 2)
        expected = PublishedWindowAttention()(layers, tokens, published, frames)
        assert torch.allclose(
            PlannedWindowAttention(manual_attention)(layers, tokens, plan, frames), expected, atol=2e-6
        )
        local = own(layers, tokens, plan.last, frames)
        assert torch.allclose(local, expected[:, :3], atol=2e-6)


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


def test_transformer_compiles_in_one_graph():
    """No step of it asks the device: nothing breaks the graph."""
    torch.manual_seed(0)
    transformer = TemporalSparseTransformer(32, 2, 2, 98, (5, 9), 4)
    size, mask = (32, 34), torch.zeros(1, 2, 11, 12)
    mask[..., 3:5, 4:6] = 1
    masked = WindowPlan(mask).masked_windows()[0].numpy()
    plan = WindowGrid(size, grid_size(size)).plan(mask, masked, 2)
    tokens, planned = torch.randn(1, 3, 11, 12, 32), PlannedWindowAttention(manual_attention)
    expected = transformer(tokens, size, WindowPlan(mask))[:, :2]
    compiled = torch.compile(transformer.forward, backend="eager", fullgraph=True)
    output = compiled(tokens, size, plan, planned, run_blocks_once)
    assert torch.allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("mix", [feed_forward, convolve_feed_forward])
@pytest.mark.parametrize("size", [(32, 34), (33, 36), (31, 32)])
def test_mlp_is_the_published(mix, size):
    torch.manual_seed(0)
    mlp = FusionFeedForward(32, 98)
    grid = grid_size(size)
    tokens = torch.randn(1, 3, *grid, 32)
    assert torch.allclose(mix(mlp, tokens, size, WindowGrid(size, grid).overlap), mlp(tokens, size), atol=2e-6)


@pytest.mark.parametrize(("groups", "size"), [(16, (12, 15)), (2, (1, 7)), (1, (9, 1))])
def test_deformable_convolution_is_torchvisions(groups, size):
    torch.manual_seed(0)
    x, offset = torch.randn(2, 32, *size), 6 * torch.randn(2, 18 * groups, *size)
    weight, bias, mask = torch.randn(8, 32, 3, 3), torch.randn(8), torch.rand(2, 9 * groups, *size)
    expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    output = sampled_deform_conv(x, offset, weight, bias, padding=1, mask=mask)
    assert (output - expected).abs().max() < 2e-5 * expected.abs().max()
    low = sampled_deform_conv(x.bfloat16(), offset, weight, bias, padding=1, mask=mask)
    assert low.dtype == torch.float32
