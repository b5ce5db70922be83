"""ProPainter, written from its specification: networks, stages, video and weights, in plain PyTorch.

"ProPainter: Improving Propagation and Transformer for Video Inpainting" (Zhou, Li, Chan, Loy; ICCV 2023).
"""

from propainter.errors import InputError
from propainter.flow_completion import complete_flow
from propainter.networks import Networks, build_networks, load_weights, published_state, seeded_state_dict
from propainter.pipeline import STAGES, Clip, Observer, Pipeline, Scene, inpaint
from propainter.propagation import propagate_pixels
from propainter.raft import estimate_flow
from propainter.schedule import Schedule, Window, plan_windows
from propainter.storage import Resident

__all__ = [
    "STAGES",
    "Clip",
    "InputError",
    "Networks",
    "Observer",
    "Pipeline",
    "Resident",
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
