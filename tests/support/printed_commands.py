"""The commands that README, docs and config files print, and how to make one small."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from support.command_line import CHEAP, SMALLEST, picture_folder

from propainter.io.video_format import VideoFormat
from propainter.io.video_writer import VideoWriter
from propainter.weights import empty_networks, load_seeded, save_networks

MEASURED_ONCE = [*CHEAP[1:], "measure.reference=false", "measure.min_pairs=1", "measure.clips=2"]
"""One timed run, one pair where a baseline is asked for, two clips where many are, no fp32 reference."""

TRAINED_ONCE = [
    *("train.steps=1", "train.batch=1", "train.frames=[2]", "train.height=128", "train.width=128", "train.warmup=0"),
    *("train.workers=0", "train.devices=1", "train.raft_iterations=1", "train.discriminator_from=null"),
]
"""One update of one clip."""

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(
    r"^[\s$]*(?:- run: +)?(?:\w+=\S+ +|time +)*"
    r"(?P<command>(?:python run\.py|python -m (?:analysis|experiments|propainter)[\w.]*"
    r"|propainter-bench[\w-]*|make [a-z]\S*)(?: .*)?)$"
)
_REMARK = re.compile(r"\s+#\s.*| {2,}[^-\s\w].*| {2,}\w[^=]*$|\s>>?.*")


def commands_in(page: str) -> list[str]:
    """Return the commands in a Markdown page: lines of its blocks of code, and code within sentences."""
    lines = [line for block in _FENCE.findall(page) for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines()]
    lines += [" ".join(code.split()) for code in _INLINE.findall(_FENCE.sub("", page))]
    found = (_COMMAND.match(line) for line in lines)
    return list(dict.fromkeys(_REMARK.sub("", match["command"]).strip() for match in found if match))


def commands_of(config: str) -> list[str]:
    """Return the commands in the comments that a config file begins with, but for `python run.py`."""
    return re.findall(r"^# python run\.py (.*)$", config, re.M)


class UsersFiles:
    """Small files in place of the user's, which commands name: a video, frames, a mask, weights."""

    def __init__(self, folder: Path) -> None:
        self.frames = picture_folder(folder / "frames")
        self.video, self.mask, self.weights = folder / "video.mp4", folder / "mask.png", folder / "weights"
        noise = np.random.default_rng(0)
        with VideoWriter(self.video, VideoFormat(Fraction(24), 128, 128)) as video:
            for _ in range(2):
                video.write(noise.integers(0, 255, (128, 128, 3), dtype=np.uint8))
        mask = np.zeros((128, 128), np.uint8)
        mask[40:60, 50:80] = 255
        Image.fromarray(mask).save(self.mask)
        self.set = folder / "set"
        for name in ("frames", "masks"):
            (self.set / name).mkdir(parents=True)
        picture_folder(self.set / "frames" / "walk")
        (self.set / "masks" / "walk").mkdir()
        for number in range(2):
            Image.fromarray(mask).save(self.set / "masks" / "walk" / f"{number}.png")
        self.small = folder / "small.safetensors"
        networks = empty_networks("small")
        load_seeded(networks)
        save_networks(networks, self.small)
        self.cuts = folder / "cuts.txt"
        self.cuts.write_text("1\n")

    def places(self) -> dict[str, str]:
        """Return what stands in for a setting that names a file, by its key."""
        return {
            "data.video": str(self.video),
            "data.frames": str(self.frames),
            "data.masks": str(self.mask),
            "weights.dir": str(self.weights),
            "weights.file": str(self.small),
            "scenes.path": str(self.cuts),
            "data.truth": str(self.frames),
            "dataset.root": str(self.set),
            "task.folder": str(self.frames),
            "train.root": str(self.frames.parent),
            "train.flow_completion": str(self.small),
        }


def made_small(arguments: Sequence[str], files: UsersFiles) -> list[str]:
    """Return arguments of run.py with the smallest clip and no download, on `files` in place of the user's."""
    here = list(_with_files(arguments, files))
    if any(item.startswith("experiment=train") for item in here):
        return [*here, *_trained_once(here, files)]
    given = dict(item.split("=", 1) for item in here if "=" in item and not item.startswith("-"))
    if given.get("experiment", "").startswith("evaluate"):
        return [*here, *_evaluated_once(given, files)]
    source = given.get("data", "sample")
    small = SMALLEST[3:]
    if source in ("sample", "synthetic"):
        small = SMALLEST
    elif "data.outpaint.scale_w" not in given:
        small = [*small, "data.resize_ratio=1", "data.height=128", "data.width=128"]
    if given.get("weights", "seeded") == "seeded":
        small = [*small, "weights=seeded"]
    if given.get("weights") == "auto":
        small = [*small, "weights.url=http://127.0.0.1:9/"]
    if any(key.startswith(("measure", "experiment")) for key in given):
        small = [*small, *MEASURED_ONCE] if given.get("measure") != "none" else small
    else:
        small = [*small, "measure=none"]
    if given.get("compile", "none") != "none" or given.get("preset") == "fast_plan":  # all components take minutes
        small = [*small, "compile.components=[decoder]"]
    if given.get("runtime") in ("onnxruntime", "openvino", "aoti"):  # all components take a minute
        small = [*small, "runtime.components=[decoder]"]
    if given.get("quantization") == "int8_static":
        small = [*small, "quantization.components=[decoder]", "quantization.clips=1"]
    return [*here, *small]


def _evaluated_once(given: Mapping[str, str], files: UsersFiles) -> list[str]:
    """Return what makes an evaluation small: two frames, no LPIPS, a local file of weights."""
    small = [*SMALLEST[3:], "quality.lpips=false"]
    if given.get("dataset", "synthetic") == "synthetic":
        small += ["dataset.num_frames=2", "dataset.height=128", "dataset.width=128"]
        small += [f"evaluate.clips={min(2, int(given.get('evaluate.clips', 1)))}"]
    if given.get("weights") == "pretrained":
        small += [f"weights.dir={files.weights}"]
    own = given["experiment"] == "evaluate_synthetic" or "weights" in given
    return small if own else [*small, "weights=seeded"]


def _trained_once(here: list[str], files: UsersFiles) -> list[str]:
    """Return what makes an experiment with training small."""
    small = list(TRAINED_ONCE)
    if "weights=pretrained" in here:
        small += [f"weights.dir={files.weights}"]
    if "train=generator" in here:  # the file holds the small architecture's
        small += ["train.flow_completion=null", "train.references=0"]
    if "train=small_generator" in here:
        small += ["train.windows=1", "train.window=2", "train.crop=[32,32]", "train.references=0"]
    return small


def _with_files(arguments: Sequence[str], files: UsersFiles) -> Iterator[str]:
    places = files.places()
    for item in arguments:
        key, equals, _ = item.partition("=")
        if item == "data=...":
            yield from ("data=folder", f"data.frames={files.frames}", f"data.masks={files.mask}")
        elif equals and key in places:
            yield f"{key}={places[key]}"
        elif item != "...":
            yield item
