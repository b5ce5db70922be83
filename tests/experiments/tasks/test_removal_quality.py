"""The quality table measures what it says, in each clip, and goes on where it was stopped."""

import json
import shlex
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.command_line import picture_folder, start_narrow
from support.configs import composed

from experiments.data import load, sample_clip
from experiments.quality.metrics import dilated_mask, psnr_db
from experiments.tasks.removal_baselines import AffineFlow, given_flow
from experiments.tasks.removal_quality import CLIPS, Choice, Subject, _KeptResults, end_point_error
from propainter import InputError, Pipeline, Schedule
from propainter.weights import empty_networks, load_seeded, save_networks

CHOICE = Choice(4, 128, 160, [0, 7], 2, None, 3, "ellipse", False)


def test_the_choice_makes_named_clips_of_one_size(tmp_path):
    folder = picture_folder(tmp_path / "mine", count=8)
    clips = replace(CHOICE, folder=str(folder)).clips()
    assert [(of, clip.name) for of, clip in clips] == [
        *(("sample", "sample 0"), ("sample", "sample 7"), ("folder", "mine 0"), ("folder", "mine 1")),
        *(("synthetic", "synthetic 0"), ("synthetic", "synthetic 1")),
    ]
    assert {(clip.num_frames, clip.height, clip.width) for _, clip in clips} == {(4, 128, 160)}
    assert clips[1][1].seed == 7 and clips[-1][1].split == "held_out"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"num_frames": 1}, "task.num_frames is 1; give a whole number of at least 2"),
        ({"height": 100}, "task.height is 100; give a whole number of at least 128"),
        ({"width": 128.5}, "task.width is 128.5"),
        ({"synthetic_clips": -1}, "task.synthetic_clips is -1"),
        ({"sample_seeds": 3}, r"task.sample_seeds is 3; give a list, such as \[0,1,2\]"),
        ({"sample_seeds": [0, -1]}, "task.sample_seeds is -1"),
        ({"sample_seeds": "01"}, "task.sample_seeds is '01'; give a list"),
        ({"folder_clips": 0}, "task.folder_clips is 0"),
        ({"folder": "nowhere"}, "task.folder is nowhere, which is no folder"),
        ({"sample_seeds": [], "synthetic_clips": 0}, "no clip is chosen; give task.sample_seeds"),
    ],
)
def test_settings_that_make_no_sense_are_named(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        replace(CHOICE, **wrong).clips()


def subject(networks, clip, seeded=None) -> Subject:
    """The narrow networks' pipeline with the clip's exact flow, and its completion by an affine fit."""
    flows = tuple(torch.from_numpy(flow)[None] for flow in clip.exact_flow())
    estimator = given_flow(flows, torch.device("cpu"))
    pipeline = Pipeline(networks, Schedule(), flow_estimator=estimator, flow_predictor=AffineFlow())
    return Subject(pipeline, None, seeded)


@pytest.mark.slow
def test_the_figures_of_a_clip_are_those_of_its_results(narrow, tmp_path):
    source = sample_clip(6, 128, 160)
    clip, path = load(source), tmp_path / "picture.png"
    seeded = Pipeline(narrow, Schedule(raft_iterations=1))
    measured = subject(narrow, source, seeded).measure(clip, source.exact_flow(), path)
    hole = dilated_mask(clip, Schedule())
    assert measured["hole_fraction"] == hole.mean()
    ours = subject(narrow, source).pipeline(clip.frames, clip.masks)
    error = np.abs(ours.astype(int) - clip.truth)[hole]
    assert measured["psnr_hole_db"]["ours"] == psnr_db(error)
    # The flow of both is exact and affine, so that both propagate the same.
    assert measured["flow_epe_px"]["estimated_outside"] == 0
    assert max(measured["flow_epe_px"][name] for name in ("propagation", "affine")) < 0.01
    assert measured["filled"]["propagation"] == measured["filled"]["affine"] > 0.2
    psnr = measured["psnr_hole_db"]
    assert psnr["propagation_telea"] == psnr["affine_telea"] > psnr["frames_telea"]
    assert "seeded" in psnr and psnr["seeded"] != psnr["ours"]
    with Image.open(path) as image:
        assert image.width == 5 * 160 and image.height > 3 * 128
    assert json.dumps(measured, allow_nan=False)


def test_a_clip_without_hole_or_truth_is_refused(narrow):
    source = sample_clip(2, 128, 128)
    clip = load(source)
    for changed, what in ((replace(clip, truth=None), "truth"), (replace(clip, masks=clip.masks * 0), "hole")):
        with pytest.raises(InputError, match=f"sample has no {what}; give another clip"):
            subject(narrow, source).measure(changed)


@pytest.mark.slow
def test_a_size_of_no_multiple_of_8_has_no_error_of_flow(narrow):
    source = sample_clip(2, 130, 141)
    pipeline = Pipeline(narrow, Schedule(raft_iterations=1))
    measured = Subject(pipeline, None).measure(load(source), source.exact_flow())
    assert measured["flow_epe_px"] is None and measured["psnr_hole_db"]["propagation_telea"] > 10


def test_end_point_errors_count_where_flow_starts():
    exact = np.zeros((1, 2, 2, 3), np.float32), np.zeros((1, 2, 2, 3), np.float32)
    flows = torch.zeros(1, 1, 2, 2, 3), torch.zeros(1, 1, 2, 2, 3)
    flows[0][0, 0, :, 0, 0] = torch.tensor([3.0, 4.0])
    flows[1][0, 0, :, 1, 2] = torch.tensor([0.0, 1.0])
    where = np.zeros((2, 2, 3), bool)
    assert end_point_error(flows, exact, where) is None
    where[0, 0, 0] = where[1, 1, 2] = where[1, 0, 0] = True
    assert end_point_error(flows, exact, where) == pytest.approx((5 + 1 + 0) / 3)


def test_results_are_kept_and_a_damaged_line_is_none(tmp_path):
    path, one, two = tmp_path / CLIPS, {"clip": "one", "psnr_hole_db": {}}, {"clip": "two", "psnr_hole_db": {}}
    kept = _KeptResults(path)
    kept.add("a", {**one, "value": float("nan")})
    kept.add("b", two)
    assert _KeptResults(path).results == {"a": {**one, "value": None}, "b": two}
    path.write_text('[1]\n3\n{}\n{"key": "c"}\n' + path.read_text()[:-5])
    again = _KeptResults(path)
    assert list(again.results) == ["a"]
    again.add("d", two)
    assert list(_KeptResults(path).results) == ["a", "d"]


TINY = [
    *("experiment=removal_quality", "weights=seeded", "schedule.raft_iterations=1", "task.sample_seeds=[0]"),
    *("task.num_frames=2", "task.height=128", "task.width=128", "hydra.run.dir=run"),
]


@pytest.mark.slow
def test_the_command_is_stopped_and_goes_on(tmp_path):
    process, kept = start_narrow(tmp_path, *TINY, "task.synthetic_clips=500"), tmp_path / "run" / CLIPS
    until = time.monotonic() + 120
    while not kept.exists() or kept.read_text().count("\n") < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    lines = kept.read_text().splitlines()
    assert process.returncode == 130
    command = err.splitlines()[-1].removeprefix("interrupted: ")
    assert command.endswith(" does the rest")
    assert not (tmp_path / "run" / "removal_quality.json").exists()

    again = start_narrow(tmp_path, shlex.split(command)[2], "task.synthetic_clips=2")
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert err.count("found in") == min(len(lines), 3)
    assert kept.read_text().splitlines()[: len(lines)] == lines
    document = json.loads((tmp_path / "run" / "removal_quality.json").read_text())
    assert [clip["clip"] for clip in document["clips"]] == ["sample 0", "synthetic 0", "synthetic 1"]
    assert document["means"][-1]["set"] == "all" and document["weights"]["source"] == "seeded"
    assert (tmp_path / "run" / "removal_quality.md").read_text().strip() in out
    pictures = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert pictures == {"removal_quality_sample.png", "removal_quality_synthetic.png"}


@pytest.mark.slow
def test_seeded_weights_beside_small_ones_of_a_file(tmp_path):
    networks = empty_networks("small")
    load_seeded(networks)
    save_networks(networks, tmp_path / "small.safetensors")
    cfg = composed("weights=small", f"weights.file={tmp_path}/small.safetensors")
    subject = Subject.of(cfg, torch.device("cpu"), seeded=True)
    assert (subject.weights.source, subject.pipeline.networks.raft) == ("small", None)
    assert subject.seeded.networks.architecture == "published"
