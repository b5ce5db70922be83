"""The published script's flags, and the run.py command that they stand for."""

import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.command_line import ROOT, picture_folder
from support.videos import decoded

from experiments.launch.command_line import CommandLine
from experiments.launch.inpaint_command import parser, translate

BASE = ["-i", "clip.mp4", "-m", "mask.png"]


def line(*flags):
    return translate([*BASE, *flags])[0]


def test_the_defaults_are_the_published_ones_and_the_fast_preset():
    assert line() == [
        *("data=video", "data.video=clip.mp4", "data.masks=mask.png", "measure=none", "preset=fast"),
        *("output.published_names=true", "hydra.run.dir=results/clip"),
    ]
    defaults = vars(parser().parse_args(["-i", "clip.mp4"]))
    published = dict(
        output="results", resize_ratio=1.0, height=-1, width=-1, mask_dilation=4, ref_stride=10, neighbor_length=10,
        subvideo_length=80, raft_iter=20, mode="video_inpainting", scale_h=1.0, scale_w=1.2, save_fps=24,
        save_frames=False, fp16=False,
    )  # fmt: skip
    assert {name: defaults[name] for name in published} == published


@pytest.mark.parametrize(
    ("flags", "overrides"),
    [
        (["--resize_ratio", "0.5"], ["data.resize_ratio=0.5"]),
        (["--height=240", "--width=432"], ["data.height=240", "data.width=432"]),
        (["--mask_dilation=8", "--ref-stride=5"], ["schedule.mask_dilation=8", "schedule.ref_stride=5"]),
        (["--neighbor_length=6", "--subvideo-length=40"],
         ["schedule.neighbor_length=6", "schedule.subvideo_length=40"]),
        (["--raft_iter=4", "--save-frames"], ["schedule.raft_iterations=4", "output.frames=true"]),
        (["--fp16"], ["preset=published_fp16"]),
        (["--fp16", "--preset=published"], ["preset=published_fp16"]),
        (["--preset=memory_efficient"], ["preset=memory_efficient"]),
        (["--chunk_size=20"], ["chunking=fixed", "chunking.size=20"]),
        (["--chunk-size=2"], ["chunking=fixed", "chunking.size=2", "chunking.overlap=1"]),
        (["--min-scale=0.5", "--no-cpu-fallback"], ["fallback=ladder", "fallback.min_scale=0.5", "fallback.cpu=false"]),
        (["--min_scale=0.25", "--no_cpu_fallback"],
         ["fallback=ladder", "fallback.min_scale=0.25", "fallback.cpu=false"]),
        (["--log-level=debug"], ["hydra.job_logging.root.level=DEBUG"]),
        (["output.audio=none", "--log_level=ERROR", "data.max_frames=9"],
         ["hydra.job_logging.root.level=ERROR", "output.audio=none", "data.max_frames=9"]),
        (["-o", "my [out]"], ["hydra.run.dir='my [out]/clip'"]),
    ],
)  # fmt: skip
def test_a_flag_is_a_setting(flags, overrides):
    given = line(*flags)
    assert [item for item in given if item in overrides] == overrides
    CommandLine.parse(given)
    assert len([item for item in given if item.startswith("preset=")]) == 1


def test_a_folder_and_outpainting(tmp_path):
    folder = picture_folder(tmp_path / "视频 (1)")
    given, _ = translate(["-i", str(folder), "--mode", "video_outpainting", "--scale_w=1.5", "--save_fps=12"])
    values = {item.key_or_group: item.value() for item in CommandLine.parse(given).overrides}
    assert values["data"] == "folder" and values["data.frames"] == str(folder) and values["data.fps"] == 12
    assert (values["data.outpaint.scale_h"], values["data.outpaint.scale_w"]) == (1.0, 1.5)
    assert values["hydra.run.dir"] == "results/视频 (1)" and "data.masks" not in values


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["-i", "a.mp4"], "--mask is missing"),
        (["-m", "a.png"], "--video"),
        ([*BASE, "--mode=video_outpainting"], "leave one of them out"),
        ([*BASE, "--fp16", "--preset=fast"], "leave one of them out"),
        ([*BASE, "--height=tall"], "--height"),
        ([*BASE, "--mode=other"], "--mode"),
        ([*BASE, "more"], "KEY=VALUE"),
        ([*BASE, "--heigh=2"], "--heigh"),
    ],
)
def test_flags_that_cannot_be_used_give_a_sentence(capsys, flags, part):
    with pytest.raises(SystemExit, match="2"):
        translate(flags)
    message = capsys.readouterr().err
    assert part in message and message.count("\n") == 1


def command(*arguments, **options):
    process = [sys.executable, "-m", "experiments.launch.inpaint_command", *arguments]
    return subprocess.run(process, cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.slow
def test_it_prints_the_command_and_leaves_the_published_names(tmp_path):
    frames, out = picture_folder(tmp_path / "my clip"), tmp_path / "out"
    mask = np.zeros((128, 128), np.uint8)
    mask[40:60, 40:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    flags = ["-i", frames, "-m", tmp_path / "mask.png", "-o", out, "--raft_iter=1", "--save_frames", "--preset=none"]
    typed = [*map(str, flags), "weights=seeded", "device=cpu"]
    printed = command(*typed, "--dry-run")
    assert printed.returncode == 0 and not out.exists()
    done = command(*typed)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first == printed.stdout.strip() and shlex.split(first)[:2] == ["python", "run.py"]
    folder = out / "my clip"
    assert sorted(path.name for path in (folder / "frames").iterdir()) == ["00000.png", "00001.png"]
    assert (folder / "inpaint_out.mp4").read_bytes() == (folder / "inpainted.mp4").read_bytes()
    shown = decoded(folder / "masked_in.mp4")
    assert len(shown) == 2 and shown[0][45:55, 45:55, 0].mean() > shown[0][45:55, 45:55, 1].mean() + 60
