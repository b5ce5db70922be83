"""Inpaint a video with a variant of ProPainter, and measure it.

    python run.py                                             the published variant on the built-in sample
    python run.py data=video data.video=in.mp4 data.masks=mask.png
    python run.py -m attention=manual precision=fp32          a sweep: every combination, each in its own process
    python run.py --help                                      groups, options and every setting

Exit code of a single run: 0 ok, 3 unsupported, 1 anything else. A sweep: 0 where every run is ok, unsupported or out
of memory, and its table and report came about, else 1. 2: the command line could not be understood. 130: interrupted.
"""

from experiments.launch.cli import main

if __name__ == "__main__":
    main()
