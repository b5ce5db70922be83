"""`propainter-inpaint`: the published script's flags, translated into a `run.py` command.

    propainter-inpaint -i clip.mp4 -m mask.png -o results

It prints the command that it stands for and runs it. Exit codes are those of run.py.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from experiments.launch.command_line import as_override
from propainter.io.paths import expand_home

FP16_PRESETS = ("published", "published_fp16")

_SCHEDULE = {
    "mask_dilation": "mask_dilation",
    "ref_stride": "ref_stride",
    "neighbor_length": "neighbor_length",
    "subvideo_length": "subvideo_length",
    "raft_iter": "raft_iterations",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists the flags.\n")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = _Parser(
        prog="propainter-inpaint",
        description="Fill the hole in a video, or extend its picture. Prints the run.py command it stands for.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )

    def add(*names: str, **options: object) -> None:
        # Each flag by both spellings, --save_fps and --save-fps; the help shows the first.
        dashed = [name.replace("_", "-") if "_" in name else name[:2] + name[2:].replace("-", "_") for name in names]
        top.add_argument(*dict.fromkeys([*names, *dashed]), **options)  # type: ignore[arg-type]

    add("-i", "--video", required=True, metavar="PATH", help="a video file, or a folder of images")
    add("-m", "--mask", metavar="PATH", help="a folder of masks, one mask for all frames, or a mask video")
    add("-o", "--output", default="results", metavar="FOLDER", help="results come into FOLDER/NAME, NAME the video's")
    add("--resize_ratio", type=float, default=1.0, help="multiplies the size to work at")
    add("--height", type=int, default=-1, help="pixels; -1: the input's")
    add("--width", type=int, default=-1, help="pixels; -1: the input's")
    add("--mask_dilation", type=int, default=4, help="pixels by which the hole grows")
    add("--ref_stride", type=int, default=10, help="frames between the references of a window")
    add("--neighbor_length", type=int, default=10, help="neighbouring frames in a window")
    add("--subvideo_length", type=int, default=80, help="frames of a sub-video")
    add("--raft_iter", type=int, default=20, help="iterations of the flow estimator")
    add("--mode", choices=("video_inpainting", "video_outpainting"), default="video_inpainting", help="what is filled")
    add("--scale_h", type=float, default=1.0, help="outpainting: height of the canvas by that of the video")
    add("--scale_w", type=float, default=1.2, help="outpainting: width of the canvas by that of the video")
    add("--save_fps", type=float, default=24, help="frames per second of a folder; a video keeps its own")
    add("--save_frames", action="store_true", help="also write every frame as frames/NNNNN.png")
    add("--fp16", action="store_true", help="published half precision (CUDA); with no --preset, preset=published_fp16")
    add("--preset", metavar="NAME", help="a preset of run.py, or none; fast where nothing else is asked for")
    add("--chunk_size", type=int, metavar="FRAMES", help="frames of a chunk; the preset's choice where not given")
    add("--min-scale", type=float, metavar="SCALE", help="out of memory: smallest scale of the flow, 1 to 0.125")
    add("--no-cpu-fallback", action="store_true", help="out of memory: never go on on the CPU")
    add("--log-level", choices=("DEBUG", "INFO", "WARNING", "ERROR"), type=str.upper, help="least that is logged")
    add("--dry-run", action="store_true", help="print the command and run nothing")
    top.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of run.py")
    return top


def translate(given: Sequence[str]) -> tuple[list[str], bool]:
    """Return the arguments for run.py, and whether they are only to be printed.

    Raises:
        SystemExit: help was asked for (0), or the flags can't be used (2).
    """
    top = parser()
    flags = top.parse_intermixed_args(given)
    for override in flags.overrides:
        if "=" not in override:
            top.error(f"{override} is no KEY=VALUE, such as output.audio=none")
    line = [*_input(top, flags), *_variant(top, flags)]
    for flag, setting in _SCHEDULE.items():
        if getattr(flags, flag) != top.get_default(flag):
            line.append(f"schedule.{setting}={getattr(flags, flag)}")
    if flags.save_frames:
        line.append("output.frames=true")
    if flags.log_level:
        line.append(f"hydra.job_logging.root.level={flags.log_level}")
    folder = expand_home(flags.output) / _name(expand_home(flags.video))
    line += ["output.published_names=true", as_override("hydra.run.dir", str(folder))]
    return [*line, *flags.overrides], flags.dry_run


def main() -> NoReturn:
    """Run what was typed, and leave the process with the exit code of run.py."""
    arguments, only_print = translate(sys.argv[1:])
    print(shlex.join(["python", "run.py", *arguments]), flush=True)
    if only_print:
        sys.exit(0)
    from experiments.launch.cli import main as run  # lazy: --help and --dry-run need no Hydra job

    run(arguments)


def _input(top: argparse.ArgumentParser, flags: argparse.Namespace) -> list[str]:
    path = expand_home(flags.video)
    if path.is_dir():
        line = ["data=folder", as_override("data.frames", str(path)), f"data.fps={flags.save_fps:g}"]
    else:
        line = ["data=video", as_override("data.video", str(path))]
    outpainting = flags.mode == "video_outpainting"
    if outpainting and flags.mask is not None:
        top.error("--mode video_outpainting fills the border and takes no --mask, so leave one of them out")
    if not outpainting and flags.mask is None:
        top.error("--mask is missing, and --mode video_inpainting fills what it covers")
    if outpainting:
        line += [f"data.outpaint.scale_h={flags.scale_h}", f"data.outpaint.scale_w={flags.scale_w}"]
    else:
        line.append(as_override("data.masks", str(expand_home(flags.mask))))
    for side in ("height", "width"):
        if getattr(flags, side) != -1:
            line.append(f"data.{side}={getattr(flags, side)}")
    if flags.resize_ratio != 1:
        line.append(f"data.resize_ratio={flags.resize_ratio}")
    return line


def _variant(top: argparse.ArgumentParser, flags: argparse.Namespace) -> list[str]:
    preset = flags.preset
    if flags.fp16 and preset not in (None, *FP16_PRESETS):
        top.error(f"--fp16 is the published half precision, and --preset {preset} has its own: leave one of them out")
    preset = "published_fp16" if flags.fp16 else preset or "fast"
    line = ["measure=none", *([] if preset == "none" else [f"preset={preset}"])]
    if flags.chunk_size is not None:
        overlap = ["chunking.overlap=1"] if flags.chunk_size == 2 else []
        line += ["chunking=fixed", f"chunking.size={flags.chunk_size}", *overlap]
    if flags.min_scale is not None or flags.no_cpu_fallback:
        line.append("fallback=ladder")
    if flags.min_scale is not None:
        line.append(f"fallback.min_scale={flags.min_scale:g}")
    if flags.no_cpu_fallback:
        line.append("fallback.cpu=false")
    return line


def _name(path: Path) -> str:
    path = path.resolve()
    return path.name if path.is_dir() else path.stem


if __name__ == "__main__":
    main()
