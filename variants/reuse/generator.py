"""Encode the generator's frames once, embed its tokens once, composite its results on the device (for `reuse`)."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from propainter.inference.compositing import Compositor
from propainter.inference.pipeline import Predictor, Scene
from propainter.inference.storage import consecutive, take
from propainter.models.attention import WindowAttention, WindowPlan
from propainter.models.generator import Generator, shrink_masks
from propainter.models.transformer import PATCH, TransformerBlock, grid_size, token_mask
from propainter.schedule import Window
from variants.reuse.batching import batch_size_for, joined
from variants.reuse.region_decode import HoleRegions, decode_region
from variants.reuse.window_attention import PrecomputedPlan, WindowGrid, run_blocks_once


class RefCountedFrames:
    """Hold one tensor for each frame, made at its first use and freed after its last use.

    Args:
        uses: frame numbers of all uses, window after window.
        stats: gets `made` (frames) and `kept_bytes` (the most at once).
    """

    def __init__(self, uses: Iterable[Sequence[int]], stats: dict[str, int]) -> None:
        self._left = Counter(number for numbers in uses for number in numbers)
        self._kept: dict[int, Tensor] = {}
        self._stats = stats
        stats.update(made=0, kept_bytes=0)

    def take(self, numbers: Sequence[int], make: Callable[[list[int]], Tensor]) -> Tensor:
        """Return the frames' tensors, [1, n, ...]; `make` returns those of missing frames in the same form."""
        missing = [number for number in numbers if number not in self._kept]
        if missing:
            for number, made in zip(missing, make(missing).unbind(1), strict=True):
                self._kept[number] = made.clone()
            self._stats["made"] += len(missing)
            kept_bytes = sum(tensor.nbytes for tensor in self._kept.values())
            self._stats["kept_bytes"] = max(self._stats["kept_bytes"], kept_bytes)
        # Not stacked, so that images in channels_last stay so.
        taken = torch.cat([self._kept[number] for number in numbers])[None]
        self._left.subtract(numbers)
        for number in numbers:
            if self._left[number] <= 0:
                del self._kept[number]
        return taken


class FeatureCache:
    """Provide features: encode each frame once, and keep its features while a later window needs them.

    Args:
        stats: see `RefCountedFrames`; figures of the latest run.
    """

    def __init__(self, stats: dict[str, int]) -> None:
        self.stats = stats

    def __call__(self, generator: Generator, scene: Scene) -> Callable[[Window], Tensor]:
        kept = RefCountedFrames((window.frames for window in scene.windows), self.stats)

        def encode(numbers: list[int]) -> Tensor:
            batches = _batches(generator, scene, numbers)
            return joined([_encoded(generator, scene, some)[0] for some in batches])[None]

        return lambda window: kept.take(window.frames, encode)


def _batches(generator: Generator, scene: Scene, numbers: list[int]) -> list[list[int]]:
    height, width = scene.masks(numbers[:1]).shape[-2:]
    first = cast(nn.Conv2d, generator.encoder.layers[0])
    largest = first.out_channels * (height // 2) * (width // 2) * first.weight.element_size()
    step = batch_size_for(first.weight.device, largest)
    return [numbers[start : start + step] for start in range(0, len(numbers), step)]


def _encoded(generator: Generator, scene: Scene, numbers: list[int]) -> Tensor:
    return generator.encode(scene.frames(numbers), scene.masks(numbers), scene.remaining_masks(numbers))


def predictor(
    tokens: dict[str, int] | None = None,
    plans: dict[str, int] | None = None,
    around_hole: bool = False,
    pad_windows: int | None = None,
) -> Predictor:
    """Return a window predictor; see `propainter.inference.interfaces.Predictor`.

    Args:
        tokens: if given, the references' tokens are embedded once and kept while a later window needs them; it gets the
            figures of `RefCountedFrames`.
        plans: if given, all windows' plans are computed before the first window, and the window attention has to be a
            `PlannedWindowAttention`; it gets `masked_windows` and `windows` of the latest run.
        around_hole: whether to decode only around the hole; the rest of a prediction is 0.
        pad_windows: see `WindowGrid`.
    """

    def start(
        generator: Generator, scene: Scene, features: Callable[[Window], Tensor], window_attention: WindowAttention
    ) -> Callable[[Window], Tensor]:
        kept = RefCountedFrames((window.references for window in scene.windows), {} if tokens is None else tokens)
        plan_of = None if plans is None else PrecomputedPlans(generator, scene, plans, pad_windows)
        regions = HoleRegions(scene) if around_hole else None

        def references(window: Window, encoded: Tensor) -> Tensor:
            index = {number: i for i, number in enumerate(window.references)}
            if tokens is None:
                return embed(generator, encoded)
            return kept.take(window.references, lambda new: embed(generator, take(encoded, [index[t] for t in new])))

        def predict(window: Window) -> Tensor:
            local, count = window.local, len(window.local)
            encoded, masks = features(window), scene.masks(local)
            size = encoded.shape[-2], encoded.shape[-1]
            propagated, plan = generator.propagate(
                encoded[:, :count], scene.flows(local), masks, scene.remaining_masks(local)
            )
            embedded = embed(generator, propagated)
            if window.references:
                embedded = torch.cat([embedded, references(window, encoded[:, count:])], dim=1)
            del encoded
            if plan_of is None:
                embedded = generator.transformers(embedded, size, plan, window_attention)
            else:
                plan = plan_of(window, plan)
                embedded = generator.transformers(embedded, size, plan, window_attention, run_blocks_once)
            return decode(generator, propagated, embedded[:, :count], local, regions)[0]

        return predict

    return start


class PrecomputedPlans:
    """Plan each window from all masks of the run: one copy from the device, before the first window.

    Args:
        stats: gets `masked_windows` and `windows`, both in sum over all calls of the generator.
        pad: see `WindowGrid`.
    """

    def __init__(self, generator: Generator, scene: Scene, stats: dict[str, int], pad: int | None = None) -> None:
        attention = cast(TransformerBlock, generator.transformers.transformer[0]).attention
        self._count = max(t for window in scene.windows for t in window.frames) + 1
        height, width = scene.masks([0]).shape[-2:]
        size = height // 4, width // 4
        pool = attention.pool_layer.stride[0]
        self._grid = WindowGrid(size, grid_size(size), generator.transformers.window, pool, pad)
        together = batch_size_for(scene.masks([0]).device, height * width * 4)
        touched = [
            self._touched(scene.masks(list(range(start, min(start + together, self._count)))), size)
            for start in range(0, self._count, together)
        ]
        self._touches = torch.cat(touched).cpu().numpy()  # [T, windows]
        masked = [self._masked(window) for window in scene.windows]
        stats.update(masked_windows=int(sum(m.sum() for m in masked)), windows=sum(m.size for m in masked))

    def __call__(self, window: Window, plan: WindowPlan) -> PrecomputedPlan:
        """Return the window's plan with the token mask of `plan`."""
        return self._grid.plan(plan.token_mask, self._masked(window), len(window.local))

    def _masked(self, window: Window) -> np.ndarray:
        return np.any(self._touches[window.local], axis=0)

    def _touched(self, masks: Tensor, size: tuple[int, int]) -> Tensor:
        """Return which windows each frame's hole touches: masks [1, n, 1, H, W] -> bool [n, windows]."""
        tokens = token_mask(shrink_masks(masks, size))
        by_frame = WindowPlan(tokens.transpose(0, 1), self._grid.window)  # each frame as a clip of its own
        return by_frame.masked_windows()


def embed(generator: Generator, features: Tensor) -> Tensor:
    """Return the tokens of features [1, T, C, h, w], in batches of frames by the bound of a temporary tensor."""
    rows, columns = grid_size((features.shape[-2], features.shape[-1]))
    patches = rows * columns * features.shape[2] * PATCH**2 * features.element_size()
    step = batch_size_for(features.device, patches)
    return joined([generator.ss(some) for some in features.split(step, dim=1)], dim=1)


def decode(
    generator: Generator, features: Tensor, tokens: Tensor, numbers: Sequence[int], regions: HoleRegions | None
) -> Tensor:
    """Decode the frames with these numbers, in batches by the bound of a temporary tensor; see `Generator.decode`."""
    pixels = features.shape[-2] * features.shape[-1]
    step = batch_size_for(features.device, 16 * pixels * features.shape[2] // 2 * features.element_size())
    parts = []
    for start in range(0, len(numbers), step):
        some = slice(start, start + step)
        inputs = features[:, some], tokens[:, some]
        if regions is None:
            parts.append(generator.decode(*inputs))
        else:
            parts.append(decode_region(generator, *inputs, regions.of(numbers[some])))
    return joined(parts, dim=1)


class DeviceCompositor(Compositor):
    """Composite as `Compositor`, but on the device: one copy to the host at the end.

    The device holds predictions alone; pixels outside the hole come from the host's frames at the end.
    """

    def __init__(self, frames: np.ndarray, masks: np.ndarray, dtype: type[np.generic] = np.uint8) -> None:
        super().__init__(frames, masks, dtype)
        self._added: set[int] = set()
        self._predicted: Tensor | None = None  # [T, h, w, 3] of the result's dtype

    def add(self, numbers: Sequence[int], prediction: Tensor) -> None:
        """Add predictions [L, 3, h, w] in [-1, 1] of the frames with these numbers."""
        pixels = (((prediction + 1) / 2).permute(0, 2, 3, 1).float() * 255).to(torch.uint8)
        exact = self.dtype is not np.uint8
        if exact:
            pixels = pixels.float()
        if self._predicted is None:
            self._predicted = pixels.new_empty(self.frames.shape)
        for again, group in groupby(numbers, self._added.__contains__):
            for run in consecutive(list(group)):
                images, pixels = pixels.tensor_split([run.stop - run.start])
                before = self._predicted[run]
                if again and exact:
                    images = (before + images) / 2
                elif again:
                    images = (before.short() + images) // 2  # the mean of two integers, rounded down
                before.copy_(images)
        self._added.update(numbers)

    def result(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the frames from `first` to before `stop`, [n, h, w, 3] in 0 to 255, once each has been added."""
        part = slice(first, stop)
        missing = set(range(len(self.frames))[part]) - self._added
        if missing or self._predicted is None:
            raise KeyError(min(missing))
        return np.where(self.masks[part], self._predicted[part].cpu().numpy(), self.frames[part])
