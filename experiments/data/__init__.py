"""Clips to inpaint: drawn at run time, from a folder of images or from a video; each can be outpainted."""

from experiments.data.clip import Clip, Fingerprint, LoadedClip, Survey, load, survey
from experiments.data.folder import folder_clip
from experiments.data.outpaint import outpaint_clip, outpaint_scales
from experiments.data.sample import sample_clip
from experiments.data.synthetic import synthetic_clip
from experiments.data.video import video_clip

__all__ = [
    "Clip",
    "Fingerprint",
    "LoadedClip",
    "Survey",
    "folder_clip",
    "load",
    "outpaint_clip",
    "outpaint_scales",
    "sample_clip",
    "survey",
    "synthetic_clip",
    "video_clip",
]
