"""How a hole is filled without the generator, or without any network: what the quality table compares with."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import LoadedClip
from propainter import InputError, Observer, Pipeline, Scene, Window
from propainter.inference.interfaces import encode_per_window, sequential_windows
from propainter.inference.preparation import process_size, resize_back
from propainter.models.attention import WindowAttention
from propainter.models.generator import Generator
from propainter.models.raft import Flows
from variants import UnsupportedError

log = logging.getLogger(__name__)

RADIUS_PX = 3.0
"""Neighbourhood from which OpenCV inpaints a pixel."""

ALGORITHMS = {"telea": "INPAINT_TELEA", "navier_stokes": "INPAINT_NS"}
"""OpenCV's two inpainting algorithms, with their names there."""

POINTS = 5000
"""An affine map is fitted to at most so many flow vectors, drawn at random."""

RANSAC_PX = 1.0
"""Flow vectors that are further off an affine map count as another motion."""


def import_opencv() -> Any:
    """Return the module `cv2`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise InputError("experiment=removal_quality needs OpenCV: pip install opencv-python-headless") from error
    return cv2


def inpaint_frames(frames: np.ndarray, holes: np.ndarray, algorithm: str) -> np.ndarray:
    """Inpaint each frame by itself.

    Args:
        frames: uint8 [T, H, W, 3].
        holes: bool [T, H, W].
        algorithm: one of `ALGORITHMS`.

    Returns:
        uint8 [T, H, W, 3].
    """
    cv2 = import_opencv()
    flag = getattr(cv2, ALGORITHMS[algorithm])
    return np.stack(
        [
            cv2.inpaint(np.ascontiguousarray(frame), hole.astype(np.uint8), RADIUS_PX, flag)
            for frame, hole in zip(frames, holes, strict=True)
        ]
    )


class AffineFlow:
    """Fit an affine map to the flow outside the hole, frame by frame and for each direction: a `FlowPredictor`.

    The fit is OpenCV's RANSAC with least squares over its inliers: an object that moves by itself is left out.

    Attributes:
        failed: fits without an affine map (no or too few vectors outside the hole). Their flow is the median outside
            the hole, 0 where the hole is everywhere.
    """

    def __init__(self) -> None:
        self.failed = 0
        self._cv2 = import_opencv()

    def __call__(self, flow_completion: Callable[..., Tensor], flows: Flows, masks: Tensor) -> Flows:
        flow_f, flow_b = flows
        return self._fitted(flow_f, masks[:, :-1]), self._fitted(flow_b, masks[:, 1:])

    def _fitted(self, flows: Tensor, masks: Tensor) -> Tensor:
        known = (masks[:, :, 0] == 0).cpu().numpy()
        given = flows.float().cpu().numpy()
        fitted = np.empty_like(given)
        for index in np.ndindex(*known.shape[:2]):
            fitted[index] = self._fit(given[index], known[index])
        return torch.from_numpy(fitted).to(flows)

    def _fit(self, flow: np.ndarray, known: np.ndarray) -> np.ndarray:
        rows, columns = np.nonzero(known)
        chosen = np.random.default_rng(0).permutation(len(rows))[:POINTS]
        start = np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.float32)
        vectors = flow[:, rows[chosen], columns[chosen]].T
        affine = None
        if len(chosen) >= 3:
            affine, _ = self._cv2.estimateAffine2D(
                start, start + vectors, method=self._cv2.RANSAC, ransacReprojThreshold=RANSAC_PX, confidence=0.999
            )
        if affine is None:
            self.failed += 1
            usual = np.median(vectors, axis=0) if len(vectors) else np.zeros(2)
            return np.broadcast_to(usual[:, None, None], flow.shape)
        grid = np.indices(known.shape)[::-1]  # x, y
        return np.tensordot(affine[:, :2], grid, 1) + affine[:, 2, None, None] - grid


class Recorder(Observer):
    """Keep copies of the stages' tensors before generation, on the host in float32."""

    def __init__(self) -> None:
        self.stages: dict[str, list[dict[str, Tensor]]] = {}

    def tensors(self, stage: str, **tensors: Tensor) -> None:
        if stage != "generation":
            copies = {name: x.to("cpu", torch.float32, copy=True) for name, x in tensors.items()}
            self.stages.setdefault(stage, []).append(copies)


@dataclass(frozen=True)
class Propagated:
    """What a run had before its generator.

    Attributes:
        flows: as estimated, flow_f and flow_b, each [1, T-1, 2, h, w] in pixels.
        completed: the same after completion.
        frames: [T, h, w, 3], uint8, propagated pixels in the hole.
        remaining: bool [T, h, w], the part of the hole that propagation left unfilled.
    """

    flows: Flows
    completed: Flows
    frames: np.ndarray
    remaining: np.ndarray

    @classmethod
    def of(cls, recorder: Recorder, clip: LoadedClip) -> "Propagated":
        """Return what a run left with its observer.

        Raises:
            UnsupportedError: the run was made in parts.
        """
        count, size = len(clip.frames), process_size(*clip.frames.shape[1:3])
        parts = [recorder.stages.get(stage, []) for stage in ("flow", "completion", "propagation")]
        if any(len(part) != 1 for part in parts) or parts[2][0]["frames"].shape[1:] != (count, 3, *size):
            raise UnsupportedError(
                "removal_quality looks into the stages of the whole clip; leave chunking, scenes, region, fallback and "
                "residency=streaming as published"
            )
        flow, completion, propagation = (part[0] for part in parts)
        frames = propagation["frames"][0].permute(0, 2, 3, 1).add(1).mul(127.5).round().clamp(0, 255)
        return cls(
            (flow["flow_f"], flow["flow_b"]),
            (completion["flow_f"], completion["flow_b"]),
            frames.to(torch.uint8).numpy(),
            (propagation["remaining_masks"][0, :, 0] > 0).numpy(),
        )

    def inpainted(self, algorithm: str, size: Sequence[int]) -> np.ndarray:
        """Return the frames with the rest of the hole inpainted, uint8 [T, H, W, 3] of the size H, W."""
        return resize_back(inpaint_frames(self.frames, self.remaining, algorithm), (size[0], size[1]))


def recorded(pipeline: Pipeline, clip: LoadedClip) -> tuple[np.ndarray, Propagated]:
    """Run a pipeline; return its frames, uint8 [T, H, W, 3], and what it had before its generator."""
    recorder = Recorder()
    frames = replace(pipeline, observer=recorder)(clip.frames, clip.masks)
    return frames, Propagated.of(recorder, clip)


def given_flow(flows: Flows, device: torch.device) -> Callable[..., Flows]:
    """Return a `FlowEstimator` that gives these flows, whatever the frames."""
    flow_f, flow_b = (flow.to(device) for flow in flows)
    return lambda frames, report: (flow_f, flow_b)


def without_generator(pipeline: Pipeline, flows: Flows, predictor: AffineFlow) -> Pipeline:
    """Return the pipeline with given flows and another completion; each frame is predicted as propagation left it."""

    def predict(
        generator: Generator, scene: Scene, features: Callable[[Window], Tensor], window_attention: WindowAttention
    ) -> Callable[[Window], Tensor]:
        return lambda window: scene.frames(window.local)[0]

    return replace(
        pipeline,
        flow_estimator=given_flow(flows, pipeline.networks.device),
        flow_predictor=predictor,
        feature_provider=encode_per_window,  # lazy: nothing is encoded
        predictor=predict,
        window_loop=sequential_windows,
    )
