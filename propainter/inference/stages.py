"""The four stages of the published inference, each over a whole clip (docs/model.md, section 4)."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from propainter.inference.compositing import prepare_frames, prepare_masks, process_size, resize_back
from propainter.inference.interfaces import Clip, Scene
from propainter.inference.propagation import propagate_pixels
from propainter.inference.storage import DeviceStorage
from propainter.models.flow_completion import complete_flow
from propainter.schedule import Window, clip_length, plan_windows

if TYPE_CHECKING:
    from propainter.inference.pipeline import Pipeline

log = logging.getLogger(__name__)


def run_stages(pipeline: "Pipeline", clip: Clip) -> np.ndarray:
    """The published way: each stage over all frames before the next one begins. uint8 [T, H, W, 3]."""
    frames, size = clip.frames, process_size(*clip.frames.shape[1:3])
    device, schedule = pipeline.networks.device, pipeline.schedule
    log.debug("%d frames of %dx%d on %s, processed at %dx%d", len(frames), *frames.shape[1:3], device, *size)
    log.debug("flow on clips of %d frames; %s", clip_length(size[1]), schedule)
    store = pipeline.storage(device)
    with pipeline.stage("flow", len(frames)):
        small = prepare_frames(frames, size)
        if clip.flow_masks is None:
            holes = flow_holes = prepare_masks(clip.masks, size, schedule.mask_dilation)
        else:
            holes = prepare_masks(clip.masks, size, dilation=0)
            flow_holes = prepare_masks(clip.flow_masks, size, dilation=0)
        _flow(pipeline, store, small)
    with pipeline.stage("completion"):
        _completion(pipeline, store, flow_holes)
    with pipeline.stage("propagation"):
        _propagation(pipeline, store, holes)
    windows = plan_windows(len(frames), schedule.neighbor_length, schedule.ref_stride, schedule.subvideo_length)
    with pipeline.stage("generation", len(windows)):
        return resize_back(_generation(pipeline, store, windows, small, holes), frames.shape[1:3])


# Each stage is a function, so that what it holds is let go at its end.


def _flow(pipeline: "Pipeline", store: DeviceStorage, frames: np.ndarray) -> None:
    store.put("frames", as_video(frames, store.device))
    flow_f, flow_b = pipeline.flow_estimator(store.get("frames"), partial(pipeline.observer.progress, "flow"))
    pipeline.observer.tensors("flow", flow_f=flow_f, flow_b=flow_b)
    store.put("flow_f", flow_f.to(pipeline.dtype))
    store.put("flow_b", flow_b.to(pipeline.dtype))


def _completion(pipeline: "Pipeline", store: DeviceStorage, holes: np.ndarray) -> None:
    store.put("flow_masks", as_masks(holes, store.device, pipeline.dtype))
    flows, masks = (store.get("flow_f"), store.get("flow_b")), store.get("flow_masks")
    subvideo_length = pipeline.schedule.subvideo_length
    flow_f, flow_b = complete_flow(pipeline.networks.flow_completion, flows, masks, subvideo_length)
    del flows, masks
    store.drop("flow_f", "flow_b", "flow_masks")
    pipeline.observer.tensors("completion", flow_f=flow_f, flow_b=flow_b)
    store.put("completed_f", flow_f)
    store.put("completed_b", flow_b)


def _propagation(pipeline: "Pipeline", store: DeviceStorage, holes: np.ndarray) -> None:
    store.put("masks", as_masks(holes, store.device, pipeline.dtype))
    frames, masks = store.get("frames").to(pipeline.dtype), store.get("masks")
    flows = store.get("completed_f"), store.get("completed_b")
    masked = frames * (1 - masks)
    del frames
    store.drop("frames")
    filled, remaining = propagate_pixels(masked, flows, masks, pipeline.schedule.subvideo_length)
    filled = masked + filled * masks
    pipeline.observer.tensors("propagation", frames=filled, remaining_masks=remaining)
    store.put("filled", filled)
    store.put("remaining_masks", remaining)


def _generation(
    pipeline: "Pipeline", store: DeviceStorage, windows: Sequence[Window], frames: np.ndarray, holes: np.ndarray
) -> np.ndarray:
    compositor, scene = pipeline.compositor(frames, holes), Scene(store, windows)
    predict = predictor(pipeline, scene, pipeline.feature_provider(pipeline.networks.generator, scene))
    for done in pipeline.window_loop(windows, predict, compositor):
        pipeline.observer.progress("generation", done, len(windows))
    return compositor.result()


def predictor(pipeline: "Pipeline", scene: Scene, features: Callable[[Window], Tensor]) -> Callable[[Window], Tensor]:
    """The pipeline's predictor over a scene, each prediction shown to the observer."""
    predict = pipeline.predictor(pipeline.networks.generator, scene, features, pipeline.window_attention)

    def observed(window: Window) -> Tensor:
        prediction = predict(window)
        pipeline.observer.tensors("generation", prediction=prediction)
        return prediction

    return observed


def as_video(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [T, H, W, 3] -> [1, T, 3, H, W] in [-1, 1], on the device."""
    video = torch.from_numpy(_plain(frames)).to(device).permute(0, 3, 1, 2)[None]
    return video.float().div_(255).mul_(2).sub_(1)


def as_masks(masks: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 [T, H, W] -> [1, T, 1, H, W] on the device."""
    return torch.from_numpy(_plain(masks)).to(device=device, dtype=dtype)[None, :, None]


def _plain(array: np.ndarray) -> np.ndarray:
    """The array as torch takes it: contiguous and writable."""
    return np.require(array, requirements="CW")
