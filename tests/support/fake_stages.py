"""Stages that run no network, and whose output depends on everything that they read: for streaming."""

import torch
from torch import Tensor

from propainter import Schedule
from propainter.models.generator import shrink_flow
from propainter.schedule import Window

SHORT = Schedule(raft_iterations=1, neighbor_length=4, ref_stride=2, subvideo_length=6)


def pair_flow(frames: Tensor, report) -> tuple[Tensor, Tensor]:
    """A flow that depends on the two frames of a pair alone."""
    assert frames.shape[1] > 1
    flow_f = (frames[:, 1:] - frames[:, :-1])[:, :, :2] * 2
    report(frames.shape[1], frames.shape[1])
    return flow_f, -flow_f


def features_of_everything(generator, scene):
    def features(window: Window) -> Tensor:
        numbers = window.frames
        assert window in scene.windows
        return scene.frames(numbers) + scene.masks(numbers) / 8 - scene.remaining_masks(numbers) / 4

    return features


def predict_from_everything(generator, scene, features, window_attention):
    """Predictions that change with whatever a window looks at; as `PrecomputedPlans` it wants all masks beforehand."""
    frames = range(max(number for window in scene.windows for number in window.frames) + 1)
    holes = [float(scene.masks([number]).sum()) for number in frames]

    def predict(window: Window) -> Tensor:
        encoded, local = features(window), window.local
        size = encoded.shape[-2] // 4, encoded.shape[-1] // 4
        flow_f, flow_b = (shrink_flow(flow, size) for flow in scene.flows(local))
        surroundings = encoded.mean() + flow_f.mean() - flow_b.max() / 3 + sum(holes[t] for t in window.frames) / 1000
        return torch.tanh(encoded[0, : len(local)] + surroundings + scene.remaining_masks(local)[0] / 5)

    return predict
