"""The single operations that `experiment=micro` times, with their alternatives, at the shapes of a real run."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.models.optical_flow._utils import make_coords_grid

from experiments.paths import CONF
from propainter import InputError, Networks, Pipeline
from propainter.models.attention import Kernel
from propainter.models.transformer import DILATION, grid_size
from propainter.schedule import clip_length, plan_windows
from variants import GROUPS, UnsupportedError
from variants.correlation import AllPairs, OnDemand

SIZES = {"432x240": (240, 432), "864x1536": (864, 1536), "1280x720": (720, 1280)}
"""Height and width in pixels, by the names these sizes go by."""

CLIP_FRAMES = 80
"""Frames of the clip that the shapes are taken from."""

Shapes = dict[str, list[int]]
"""What `shapes_of` gives."""

Alternatives = tuple[tuple[Tensor, ...], dict[str, Callable[..., Tensor]]]
"""Inputs, and by option a function of them; the first option is what the others are compared with."""


def shapes_of(networks: Networks, size: str, masked_share: float) -> Shapes:
    """Compute the shapes of the operations' tensors, in a clip of `CLIP_FRAMES` frames.

    Returns:
        `query` [windows, heads, Q, d] and `key` [windows, heads, K, d] of the windows that touch the hole, `tokens`
        [1, T, rows, columns, C] and `window` [rows, columns], `features` [T, C, h, w] before they are doubled in size,
        `feature_maps` [pairs, C, h, w] that RAFT compares, where the networks have it.

    Raises:
        InputError: a size that is not in `SIZES`, or a share that is none.
    """
    if size not in SIZES:
        raise InputError(f"task.size is {size!r}; give one of {', '.join(SIZES)}")
    if not 0 < masked_share <= 1:
        raise InputError(f"task.masked_share is {masked_share}; give a share over 0 and up to 1")
    height, width = SIZES[size]
    generator: Any = networks.generator
    layers = generator.transformers.transformer[0].attention
    channels, heads, pool = layers.query.in_features, layers.heads, layers.pool_layer.stride[0]
    # The grid of tokens is padded until windows tile it.
    grid = grid_size((height // 4, width // 4))
    rows, columns = (math.ceil(count / side) * side for count, side in zip(grid, layers.window, strict=True))
    near = math.prod(layers.window)
    far = len(layers.valid_ind_rolled) + (rows // pool) * (columns // pool)
    windows = math.ceil(masked_share * rows * columns / near)
    fullest = max(plan_windows(CLIP_FRAMES), key=lambda window: len(window.frames))
    frames = len(fullest.frames)
    shapes = {
        "query": [windows, heads, frames * near, channels // heads],
        "key": [windows, heads, math.ceil(frames / DILATION) * (near + far), channels // heads],
        "tokens": [1, frames, rows, columns, channels],
        "window": list(layers.window),
        "features": [len(fullest.local), generator.decoder[0].conv.in_channels, height // 4, width // 4],
    }
    if networks.raft is not None:
        channels = 2 * networks.raft.update_block.hidden_state_size
        shapes["feature_maps"] = [clip_length(width), channels, height // 8, width // 8]
    return shapes


def attention(pipeline: Pipeline, shapes: Shapes, dtype: torch.dtype, device: torch.device) -> Alternatives:
    """Make the inner kernels of the config group `attention`, on the windows that touch the hole."""
    names = sorted(path.stem for path in (CONF / "attention").glob("*.yaml"))
    names.sort(key=lambda name: name != GROUPS["attention"])

    @cache
    def kernel(name: str) -> Kernel:
        node = OmegaConf.load(CONF / "attention" / f"{name}.yaml")
        changed = instantiate(node)(replace(pipeline, contexts=[], effective={}))
        if not hasattr(changed.window_attention, "kernel"):
            raise UnsupportedError("this option is no inner kernel: it replaces all of window attention")
        return partial(_in_generation, changed)

    inputs = tuple(_noise(shapes[name], dtype, device) for name in ("query", "key", "key"))
    return inputs, {name: lambda *qkv, name=name: kernel(name)(*qkv) for name in names}


def _in_generation(pipeline: Pipeline, *qkv: Tensor) -> Tensor:
    """Run the inner kernel in the contexts of its stage."""
    attention: Any = pipeline.window_attention
    with ExitStack() as stack:
        for context in pipeline.contexts:
            stack.enter_context(context("generation"))
        return attention.kernel(*qkv)


def partition(pipeline: Pipeline, shapes: Shapes, dtype: torch.dtype, device: torch.device) -> Alternatives:
    """Make the division of the grid of tokens into windows and heads."""
    (rows, columns), heads = shapes["window"], shapes["query"][1]

    def by_einops(x: Tensor) -> Tensor:
        sizes = dict(wh=rows, ww=columns, n=heads)
        return rearrange(x, "b t (nh wh) (nw ww) (n c) -> b (nh nw) n t (wh ww) c", **sizes)

    def by_view(x: Tensor) -> Tensor:
        b, t, height, width, channels = x.shape
        nh, nw, c = height // rows, width // columns, channels // heads
        x = x.view(b, t, nh, rows, nw, columns, heads, c).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return x.reshape(b, nh * nw, heads, t, rows * columns, c)

    return (_noise(shapes["tokens"], dtype, device),), {"einops": by_einops, "view_permute": by_view}


def resample(pipeline: Pipeline, shapes: Shapes, dtype: torch.dtype, device: torch.device) -> Alternatives:
    """Make the decoder's upsampling: features doubled in size by bilinear interpolation."""
    double = partial(F.interpolate, mode="bilinear", align_corners=True)
    size = tuple(2 * side for side in shapes["features"][-2:])
    options: dict[str, Callable[..., Tensor]]
    options = {"scale_factor": partial(double, scale_factor=2), "size": partial(double, size=size)}
    return (_noise(shapes["features"], dtype, device),), options


def correlation(pipeline: Pipeline, shapes: Shapes, dtype: torch.dtype, device: torch.device) -> Alternatives:
    """Make one pyramid of RAFT's correlations, with as many lookups in it as the schedule has iterations."""
    raft, iterations = pipeline.networks.raft, pipeline.schedule.raft_iterations
    if raft is None:
        raise UnsupportedError(
            "these weights have no RAFT, whose correlation could be timed; leave it out of task.groups"
        )
    levels, radius = raft.corr_block.num_levels, raft.corr_block.radius

    def look_up(make: Callable[[], Any], first: Tensor, second: Tensor, coords: Tensor) -> Tensor:
        block = make()
        block.build_pyramid(first, second)
        for _ in range(iterations):
            windows = block.index_pyramid(coords)
        return windows

    pairs, _, height, width = shapes["feature_maps"]
    coords = make_coords_grid(pairs, height, width, device=device)
    coords = coords + 4 * _noise(list(coords.shape), dtype, device)
    first, second = _noise([2, *shapes["feature_maps"]], dtype, device)
    options: dict[str, Callable[[], Any]] = {
        "all_pairs": partial(AllPairs, num_levels=levels, radius=radius, note=lambda used: None),
        "on_demand": partial(OnDemand, levels, radius),
    }
    return (first, second, coords), {name: partial(look_up, make) for name, make in options.items()}


ALTERNATIVES: dict[str, Callable[[Pipeline, Shapes, torch.dtype, torch.device], Alternatives]] = {
    "attention": attention,
    "partition": partition,
    "resample": resample,
    "correlation": correlation,
}


def _noise(shape: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device).to(dtype)
