"""ProPainter, written from docs/model.md: networks, stages, video and weights, in plain PyTorch.

"ProPainter: Improving Propagation and Transformer for Video Inpainting" (Zhou, Li, Chan, Loy; ICCV 2023).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    # Found when first asked for: whoever needs files and errors alone, as a sweep does, does not wait for torch.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
