"""Inpaint a video with a variant of ProPainter, and measure it.

    python run.py                                             the published variant on the built-in sample
    python run.py data=video data.video=in.mp4 data.masks=mask.png
    python run.py -m attention=manual precision=fp32          a sweep: every combination, each in its own process
    python run.py --help                                      groups, options and every setting

Exit code of a single run: 0 ok, 3 unsupported, 1 anything else. A sweep: 0 where every run is ok, unsupported or out
of memory, and its table and report came about, else 1. 2: the command line could not be understood. 130: interrupted.
"""

import hydra
from omegaconf import DictConfig

from experiments.launch.cli import command_line, run_job
from experiments.launch.process import die_with_parent, fast_exit


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(cfg: DictConfig) -> None:
    """One run, or one of a sweep's."""
    run_job(cfg)


if __name__ == "__main__":
    die_with_parent()
    leave = fast_exit()
    leave(command_line(job))
