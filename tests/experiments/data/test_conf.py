"""The options in conf/data make clips."""

from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.command_line import ROOT

from experiments.data import sample_clip

CONF = ROOT / "conf" / "data"


def test_the_options_in_conf_make_clips(files):
    sample = instantiate(OmegaConf.load(CONF / "sample.yaml"))
    assert sample == sample_clip()
    folder = OmegaConf.load(CONF / "folder.yaml")
    folder.frames, folder.masks = str(files.frames(2)), str(files.masks(2))
    assert instantiate(folder).num_frames == 2
    video = OmegaConf.load(CONF / "video.yaml")
    video.video = str(files.video(sample_clip(2, 160, 200).frames()))
    video.outpaint.scale_w = 1.2
    assert instantiate(video).width == 240
