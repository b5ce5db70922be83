"""What tests of `reuse` share: a clip that drifts, how near two results are, and how often modules run."""

import numpy as np
import torch

from propainter import Schedule
from propainter.inference.preparation import prepare_masks

QUICK = Schedule(raft_iterations=3, neighbor_length=4, ref_stride=3)
"""Few updates and short windows."""


def clip(frames: int = 8, height: int = 128, width: int = 136, hole: range | None = None):
    """A drifting picture, with a square hole that moves in the frames of `hole` (all)."""
    picture = (
        np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + frames, 3)).repeat(8, 0).repeat(8, 1)
    )
    video = np.stack([picture[:height, 3 * t : 3 * t + width] for t in range(frames)]).astype(np.uint8)
    masks = np.zeros((frames, height, width), np.uint8)
    for t in range(frames) if hole is None else hole:
        masks[t, 40 + t : 60 + t, 50:80] = 1
    return video, masks


def hole_psnr(got: np.ndarray, expected: np.ndarray, masks: np.ndarray) -> float:
    """dB in the dilated hole, 200 where equal; outside both must be equal."""
    hole = prepare_masks(masks > 0, masks.shape[1:], dilation=4) > 0
    assert np.array_equal(got[~hole], expected[~hole])
    error = np.square(got[hole].astype(float) - expected[hole]).mean()
    return 200.0 if error == 0 else 10 * np.log10(255**2 / error)


def video_tensor(frames: int, height: int = 128, width: int = 136) -> torch.Tensor:
    """[1, T, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(clip(frames, height, width)[0]).permute(0, 3, 1, 2)[None].float() / 127.5 - 1


class counting:
    """Rows of the first input that went through each module inside the block."""

    def __init__(self, *modules):
        self.modules = modules

    def __enter__(self) -> list[int]:
        self.counts = [0] * len(self.modules)
        self.hooks = [m.register_forward_pre_hook(self._count(i)) for i, m in enumerate(self.modules)]
        return self.counts

    def _count(self, i):
        def hook(module, inputs):
            self.counts[i] += len(inputs[0])

        return hook

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
