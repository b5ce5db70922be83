"""ProPainter in plain PyTorch, written from docs/model.md: networks, published inference, video files, weights.

"ProPainter: Improving Propagation and Transformer for Video Inpainting" (Zhou, Li, Chan, Loy; ICCV 2023).
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from propainter.renamed import RenamedModules, warn_renamed

if TYPE_CHECKING:
    from propainter.errors import InputError
    from propainter.inference.pipeline import STAGES, Clip, Observer, Pipeline, Scene, inpaint
    from propainter.inference.propagation import propagate_pixels
    from propainter.inference.storage import DeviceStorage
    from propainter.models.flow_completion import complete_flow
    from propainter.models.networks import Networks, build_networks, load_weights, published_state, seeded_state_dict
    from propainter.models.raft import estimate_flow
    from propainter.schedule import Schedule, Window, plan_windows

__all__ = [
    "STAGES",
    "Clip",
    "DeviceStorage",
    "InputError",
    "Networks",
    "Observer",
    "Pipeline",
    "Scene",
    "Schedule",
    "Window",
    "build_networks",
    "complete_flow",
    "estimate_flow",
    "inpaint",
    "load_weights",
    "plan_windows",
    "propagate_pixels",
    "published_state",
    "seeded_state_dict",
]

_FROM = {
    "errors": ["InputError"],
    "inference.pipeline": ["STAGES", "Clip", "Observer", "Pipeline", "Scene", "inpaint"],
    "inference.propagation": ["propagate_pixels"],
    "inference.storage": ["DeviceStorage"],
    "models.flow_completion": ["complete_flow"],
    "models.networks": ["Networks", "build_networks", "load_weights", "published_state", "seeded_state_dict"],
    "models.raft": ["estimate_flow"],
    "schedule": ["Schedule", "Window", "plan_windows"],
}
_MODULE_OF = {name: module for module, names in _FROM.items() for name in names}

_RENAMED = {"Resident": "DeviceStorage"}
_RENAMED_MODULES = {
    "attention": "models.attention",
    "blocks": "models.layers",
    "compositing": "inference.compositing",
    "files": "io.atomic",
    "flow_completion": "models.flow_completion",
    "generator": "models.generator",
    "growing_video": "io.fragmented_writer",
    "light_torchvision": "models.lazy_torchvision",
    "memory": "memory_tracker",
    "networks": "models.networks",
    "pipeline": "inference.pipeline",
    "propagation": "inference.propagation",
    "raft": "models.raft",
    "seams": "inference.interfaces",
    "settings": "validation",
    "span": "inference.frame_buffer",
    "stages": "inference.pipeline",
    "storage": "inference.storage",
    "streaming": "inference.streaming",
    "transformer": "models.transformer",
    "video": "io.video",
    "warp": "models.warp",
}
sys.meta_path.append(
    RenamedModules({f"{__name__}.{old}": f"{__name__}.{new}" for old, new in _RENAMED_MODULES.items()})
)


def __getattr__(name: str) -> Any:
    # Imports are lazy: a sweep's parent process must not import torch.
    if name in _RENAMED:
        warn_renamed(f"{__name__}.{name}", f"{__name__}.{_RENAMED[name]}")
        name = _RENAMED[name]
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
