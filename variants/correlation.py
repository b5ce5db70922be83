"""`correlation`: how RAFT correlates each pixel of one frame's features with a window of the next frame's.

In a pipeline without RAFT every option is ignored, and `effective["correlation"]["kind"]` says so.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter import InputError
from propainter.inference.pipeline import Pipeline
from propainter.models.lazy_torchvision import raft as blocks
from propainter.models.raft import AllPairsBlock, ClipFlow, Correlation
from propainter.renamed import module_getattr
from propainter.validation import above_0, check_number
from variants import UnsupportedError, claims_published, needs_cuda, needs_raft
from variants.components import NO_RAFT, raft_of
from variants.guard import guarded

log = logging.getLogger(__name__)

PRODUCT_MAX_POSITIONS = 4096
"""Up to this many positions, a product with all of a pyramid level takes less time than fetching the windows' features
from the level (two CPU cores, 256 channels)."""

Windows = Callable[[Sequence[Tensor], int, Tensor], Tensor]
"""(volumes of a pyramid, radius, coords [N, 2, h, w]) -> the result of torchvision's `CorrBlock.index_pyramid`."""


@claims_published
def all_pairs(pipeline: Pipeline) -> Pipeline:
    """Keep the correlation of every pixel with every other, as published: memory is quadratic in pixels.

    `effective["correlation"]["peak_bytes"]` is the largest pyramid of volumes of one call.
    """
    raft = raft_of(pipeline, None)
    if raft is None:
        return _ignored(pipeline)
    published = raft.corr_block
    make = partial(AllPairs, num_levels=published.num_levels, radius=published.radius)
    return _with_correlation(pipeline, raft, "all_pairs", make)


@claims_published
@needs_raft
def on_demand(pipeline: Pipeline, block_mb: float = 16) -> Pipeline:
    """Compute the windows from the feature maps at each lookup: memory is linear in pixels.

    `effective["correlation"]["peak_bytes"]` is the feature maps kept for one call, and the largest temporary tensor.

    Args:
        block_mb: bound of a temporary tensor of a lookup in MiB. A lower bound costs time.

    Raises:
        InputError: `block_mb` is not above 0.
    """
    check_number("correlation.block_mb", block_mb, above_0, "a number of MiB above 0")
    raft = raft_of(pipeline, "correlation=on_demand")
    if raft is None:
        return _ignored(pipeline)
    published = raft.corr_block
    make = partial(OnDemand, published.num_levels, published.radius, int(block_mb * 2**20))
    return _with_correlation(pipeline, raft, "on_demand", make)


@claims_published
@needs_cuda
@needs_raft
def triton(pipeline: Pipeline, on_demand: bool = False) -> Pipeline:
    """Look up all windows of an update in one Triton kernel, in a volume or without one.

    `effective["correlation"]["lookup"]` is "triton", or why torch's operations look up instead. `peak_bytes` is as in
    `all_pairs` or `on_demand`.

    Args:
        on_demand: whether to compute the windows from the feature maps at each lookup, with memory linear in pixels.

    Raises:
        InputError: `on_demand` is neither true nor false.
        UnsupportedError: the device is no CUDA device, or Triton is not installed.
    """
    if not isinstance(on_demand, bool):
        raise InputError(f"correlation.on_demand is {on_demand!r}; give true or false")
    device = pipeline.networks.device
    if device.type != "cuda":
        raise UnsupportedError(f"correlation=triton is a kernel for CUDA devices, not for this {device.type} device")
    raft = raft_of(pipeline, "correlation=triton")
    if raft is None:
        return _ignored(pipeline)
    try:
        from variants.kernels import corr_op, triton_corr  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            f"correlation=triton needs the package triton ({error}): pip install triton, or preset=fast_cuda_torch"
        ) from error
    from variants.reuse.corr_lookup import GridSampleLookup

    def in_volume(volumes: Sequence[Tensor], radius: int, coords: Tensor) -> Tensor:
        return ran(corr_op.windows(volumes, radius, coords))

    def sampled(volumes: Sequence[Tensor], radius: int, coords: Tensor) -> Tensor:
        return GridSampleLookup([volume.float() for volume in volumes], radius)(coords).to(volumes[0].dtype)

    def in_features(block: OnDemand, coords: Tensor) -> Tensor:
        return ran(corr_op.windows_on_demand(block.features, [rows for _, rows in block.levels], block.radius, coords))

    def ran(windows: Tensor) -> Tensor:
        pipeline.effective["correlation"]["lookup"] = "triton"
        return windows

    def failed(reason: str) -> None:
        log.warning("correlation=triton: the kernel failed (%s); torch's operations look up instead", reason)
        pipeline.effective["correlation"]["lookup"] = f"torch, since the kernel failed: {reason}"

    levels, radius = raft.corr_block.num_levels, raft.corr_block.radius
    make: Callable[..., Correlation]
    if on_demand:
        in_one = guarded(in_features, OnDemand.look_up, failed, device.type)
        make = partial(OnDemand, levels, radius, windows=in_one)
    else:
        make = partial(
            AllPairs, num_levels=levels, radius=radius, windows=guarded(in_volume, sampled, failed, device.type)
        )
    _with_correlation(pipeline, raft, "triton, on demand" if on_demand else "triton", make)
    pipeline.effective["correlation"]["lookup"] = "triton, not called"
    return pipeline


def _ignored(pipeline: Pipeline) -> Pipeline:
    pipeline.effective["correlation"] = {"kind": NO_RAFT}
    return pipeline


def _with_correlation(pipeline: Pipeline, raft: blocks.RAFT, kind: str, make: Callable[..., Correlation]) -> Pipeline:
    stats = pipeline.effective["correlation"] = {"kind": kind, "peak_bytes": 0}

    def note(used: int) -> None:
        stats["peak_bytes"] = max(stats["peak_bytes"], used)

    iterations = pipeline.schedule.raft_iterations
    pipeline.flow_estimator = ClipFlow(raft, iterations, correlation=partial(make, note=note))
    pipeline.flow_estimator.identity = f"raft(iterations={iterations}, correlation={kind})"
    return pipeline


class AllPairs(AllPairsBlock):
    """Correlate as published; report the pyramid's bytes and look up by a replaceable function.

    Args:
        note: called with the bytes of each pyramid.
        windows: a lookup in place of torchvision's, with the same result.
    """

    def __init__(
        self,
        *,
        num_levels: int,
        radius: int,
        note: Callable[[int], None] = lambda used: None,
        windows: Windows | None = None,
    ) -> None:
        super().__init__(num_levels=num_levels, radius=radius)
        self.note = note
        self.windows = windows

    def build_pyramid(self, fmap1: Tensor, fmap2: Tensor) -> None:
        """Build the volumes of two feature maps, each [N, C, h, w]."""
        super().build_pyramid(fmap1, fmap2)
        self.note(sum(volume.nbytes for volume in self.corr_pyramid))

    def index_pyramid(self, centroids_coords: Tensor) -> Tensor:
        """Look up the windows: coords [N, 2, h, w] -> [N, levels * (2 * radius + 1)**2, h, w]."""
        if self.windows is None:
            return super().index_pyramid(centroids_coords)
        return self.windows(self.corr_pyramid, self.radius, centroids_coords)


class OnDemand(nn.Module):
    """Correlate as torchvision's `CorrBlock`, within rounding, without the volume.

    Correlation and average pooling are linear, so that pooling the second feature map replaces pooling the volume. All
    taps of a window have the same fractional offset: each tap is a blend of the dot products at four integer positions.

    Args:
        num_levels: levels of the pyramid; each has half the size of the level before.
        radius: of the window, in pixels of the window's level.
        block_bytes: bound of each temporary tensor of a lookup; one pixel's windows may exceed it.
        note: called with the bytes in use: the feature maps and a temporary tensor.
        windows: a lookup in place of `look_up`, called with the block and coordinates.

    Attributes:
        features: of the first images, [N, h * w, C].
        levels: height and width of each level, and features of the second images there, [N, h * w + 1, C]; the last
            row is zeros.
    """

    def __init__(
        self,
        num_levels: int = 4,
        radius: int = 4,
        block_bytes: int = 16 * 2**20,
        note: Callable[[int], None] = lambda used: None,
        windows: "Callable[[OnDemand, Tensor], Tensor] | None" = None,
    ) -> None:
        super().__init__()
        self.windows = windows
        self.num_levels = num_levels
        self.radius = radius
        self.block_bytes = block_bytes
        self.note = note

    def build_pyramid(self, fmap1: Tensor, fmap2: Tensor) -> None:
        """Keep the first feature map, and the second at each level.

        Args:
            fmap1: features of the first frames, [N, C, h, w]; h and w at least 2 at the coarsest level.
            fmap2: features of the second frames, of the same shape.

        Raises:
            ValueError: the shapes differ, or are too small.
        """
        least = 2**self.num_levels
        if fmap1.shape != fmap2.shape or min(fmap1.shape[-2:]) < least:
            raise ValueError(
                f"feature maps are {list(fmap1.shape)} and {list(fmap2.shape)}; give two of one shape, with sides of "
                f"at least {least}"
            )
        self.features = fmap1.flatten(2).transpose(1, 2).contiguous()  # [N, h*w, C]
        maps = accumulate(repeat(fmap2, self.num_levels), lambda finer, _: F.avg_pool2d(finer, 2))
        self.levels = [((fmap.shape[-2], fmap.shape[-1]), _positions(fmap)) for fmap in maps]
        self._kept_bytes = sum(x.nbytes for x in (self.features, *(rows for _, rows in self.levels)))
        self.note(self._kept_bytes)

    def index_pyramid(self, centroids_coords: Tensor) -> Tensor:
        """Look up the windows; see `look_up`."""
        return self.windows(self, centroids_coords) if self.windows else self.look_up(centroids_coords)

    def look_up(self, centroids_coords: Tensor) -> Tensor:
        """Return the correlations in a window around each pixel's position in the second image.

        Args:
            centroids_coords: [N, 2, h, w], x and y in pixels of the finest level, inside the image or outside.

        Returns:
            [N, num_levels * (2 * radius + 1)**2, h, w]: levels, then x, then y; 0 outside the image.
        """
        batch, _, height, width = centroids_coords.shape
        coords = centroids_coords.flatten(2).transpose(1, 2)  # [N, h*w, 2]
        taps = (2 * self.radius + 1) ** 2
        output = coords.new_empty(batch, self.num_levels * taps, height * width)
        for number, (size, rows) in enumerate(self.levels):
            channels = output[:, number * taps : (number + 1) * taps]
            for block in self._blocks(rows):
                features, centres = self.features[:, block], coords[:, block] / 2**number
                channels[:, :, block] = self._windows(features, centres, size, rows).transpose(1, 2)
        return output.view(batch, -1, height, width)

    def _blocks(self, rows: Tensor) -> Iterator[slice]:
        """Yield the pixels in blocks, so that each temporary tensor of a lookup stays under the bound."""
        batch, pixels, channels = self.features.shape
        neighbours = (2 * self.radius + 2) ** 2
        numbers = rows.shape[1] if self._by_product(rows) else neighbours * channels
        # The neighbours' positions are 8 bytes each.
        per_pixel = batch * max(numbers * rows.element_size(), neighbours * 8)
        length = max(1, self.block_bytes // per_pixel)
        self.note(self._kept_bytes + min(length, pixels) * per_pixel)
        for start in range(0, pixels, length):
            yield slice(start, min(start + length, pixels))

    @staticmethod
    def _by_product(rows: Tensor) -> bool:
        """Return whether to multiply with all positions of a level, and not to fetch the windows' positions first."""
        return rows.shape[1] <= PRODUCT_MAX_POSITIONS

    def _windows(self, features: Tensor, centres: Tensor, size: tuple[int, int], rows: Tensor) -> Tensor:
        """Look up on one level: features [N, P, C] and centres [N, P, 2] -> [N, P, taps]."""
        batch, pixels, channels = features.shape
        side = 2 * self.radius + 2
        corner = centres.floor()
        blend_x, blend_y = (centres - corner)[..., None, None].unbind(2)
        where = self._neighbours(corner, size)  # [N, P, side*side]
        if self._by_product(rows):
            products = (features @ rows.transpose(1, 2)).gather(2, where)
        else:
            start = torch.arange(batch, device=where.device).view(-1, 1, 1) * rows.shape[1]
            fetched = rows.flatten(0, 1).index_select(0, (where + start).flatten())
            products = fetched.view(batch * pixels, side * side, channels) @ features.reshape(-1, channels, 1)
        products = products.view(batch, pixels, side, side).to(centres.dtype) / math.sqrt(channels)
        products = torch.lerp(products[:, :, :-1], products[:, :, 1:], blend_x)
        return torch.lerp(products[..., :-1], products[..., 1:], blend_y).flatten(2)

    def _neighbours(self, corner: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the row numbers of the integer positions around each corner, x then y; outside, the row of zeros."""
        height, width = size
        steps = torch.arange(-self.radius, self.radius + 2, device=corner.device)
        # A centre this far out has no position inside, however much farther it is.
        far = max(size) + self.radius + 2
        x, y = (corner.clamp(-far, far).long().clamp(-far, far)[..., None] + steps).unbind(2)
        inside = ((x >= 0) & (x < width))[..., :, None] & ((y >= 0) & (y < height))[..., None, :]
        return (y[..., None, :] * width + x[..., :, None]).where(inside, height * width).flatten(2)


def _positions(fmap: Tensor) -> Tensor:
    """Return features [N, C, h, w] as rows [N, h*w + 1, C]; the last row, zeros, is for positions outside."""
    return F.pad(fmap.flatten(2), (0, 1)).transpose(1, 2).contiguous()


__getattr__ = module_getattr(__name__, "WHOLE_LEVEL_POSITIONS:PRODUCT_MAX_POSITIONS")
