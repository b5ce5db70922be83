"""Check, resize and convert frames and masks for the networks (docs/model.md, section 4.1)."""

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_dilation
from torch import Tensor

from propainter.errors import InputError

MIN_SIDE = 128
"""Smallest height and width: RAFT's coarsest correlation level is degenerate below."""


def check_clip(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Check that frames and masks belong together.

    Args:
        frames: uint8 [T, H, W, 3] with T of at least 2, H and W of at least 128.
        masks: [T, H, W], [1, H, W] or [H, W]; nonzero is the hole.

    Returns:
        The masks as bool [T, H, W].

    Raises:
        InputError: a type, size or number is wrong, or the hole covers everything.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise InputError(f"frames are {frames.dtype} {list(frames.shape)}; give uint8 [T, H, W, 3]")
    count, height, width, _ = frames.shape
    if count < 2:
        raise InputError(f"the clip has {count} frame(s); give at least 2, since flow joins two frames")
    if min(height, width) < MIN_SIDE:
        raise InputError(f"frames are {height}x{width}; give at least {MIN_SIDE}x{MIN_SIDE}, or enlarge them")
    if masks.ndim == 2:
        masks = masks[None]
    if masks.shape[0] not in (1, count) or masks.shape[1:] != (height, width):
        raise InputError(
            f"masks are {list(masks.shape)} for frames of {list(frames.shape)}; give one mask, or one for each frame, "
            "in the frames' size"
        )
    hole = np.broadcast_to(masks != 0, (count, height, width))
    if hole.all():
        raise InputError("the masks cover every pixel of every frame; leave something to see outside the hole")
    return hole


def process_size(height: int, width: int) -> tuple[int, int]:
    """Return the process size: height and width rounded down to multiples of 8 (docs/model.md, section 4.1)."""
    return height // 8 * 8, width // 8 * 8


def prepare_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [T, H, W, 3] to the process size by Pillow's bicubic filter."""
    return _resize(frames, size, Image.Resampling.BICUBIC)


def prepare_masks(masks: np.ndarray, size: tuple[int, int], dilation: int) -> np.ndarray:
    """Convert bool [T, H, W] to uint8 [T, h, w] of 0 and 1: resize by nearest neighbour, dilate by the cross.

    Args:
        masks: True in the hole.
        size: h and w.
        dilation: number of dilations.
    """
    masks = resize_masks(masks.astype(np.uint8), size)
    if dilation:
        masks = np.stack([binary_dilation(mask, iterations=dilation) for mask in masks]).astype(np.uint8)
    return masks


def widen_masks(masks: np.ndarray, margin: int) -> tuple[np.ndarray, int]:
    """Dilate flow masks by a margin; a mask that would cover its frame stays as it is.

    Args:
        masks: uint8 [T, h, w] of 0 and 1.
        margin: number of dilations by the cross.

    Returns:
        The masks, and the number of those that stayed as they were for this reason.
    """
    if not margin:
        return masks, 0
    wide = prepare_masks(masks, (masks.shape[1], masks.shape[2]), margin)
    covered = wide.all(axis=(1, 2)) & ~masks.all(axis=(1, 2))
    wide[covered] = masks[covered]
    return wide, int(covered.sum())


def resize_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [T, H, W] by nearest neighbour."""
    return _resize(masks, size, Image.Resampling.NEAREST)


def resize_back(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [T, h, w, 3] in uint8 or float32 to the input's size by Pillow's bilinear filter."""
    if frames.dtype == np.uint8:
        return _resize(frames, size, Image.Resampling.BILINEAR)
    channels = (_resize(frames[..., channel], size, Image.Resampling.BILINEAR) for channel in range(3))
    return np.stack(list(channels), axis=-1)  # Pillow has no colours in float32


def _resize(images: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    if images.shape[1:3] == tuple(size):
        return images
    return np.stack([np.asarray(Image.fromarray(image).resize(size[::-1], method)) for image in images])


def as_video(frames: np.ndarray, device: torch.device, pinned: bool = False) -> Tensor:
    """Convert uint8 [T, H, W, 3] to float32 [1, T, 3, H, W] in [-1, 1], on the device; see `to_device` of `pinned`."""
    video = to_device(frames, device, pinned).permute(0, 3, 1, 2)[None]
    return video.float().div_(255).mul_(2).sub_(1)


def as_masks(masks: np.ndarray, device: torch.device, dtype: torch.dtype, pinned: bool = False) -> Tensor:
    """Convert uint8 [T, H, W] to [1, T, 1, H, W] of the dtype, on the device; see `to_device` of `pinned`."""
    return to_device(masks, device, pinned).to(dtype)[None, :, None]


def to_device(array: np.ndarray, device: torch.device, pinned: bool = True) -> Tensor:
    """Copy an array to the device.

    Args:
        array: of the host.
        device: the CPU gets no copy, but the array's memory.
        pinned: whether to go through pinned memory on CUDA, so that the host does not wait for the copy. torch keeps
            that memory for the next copy: not for a whole clip.
    """
    tensor = torch.from_numpy(_as_torch_takes(array))
    pinned = pinned and device.type == "cuda"
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)


def _as_torch_takes(array: np.ndarray) -> np.ndarray:
    """Return the array contiguous and writable, copied only where it is not."""
    return np.require(array, requirements=["C", "W"])
