"""One video by one variant: the protocol that reaches the pipeline, records that are kept, times that count."""

import json
import sys

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from support.configs import CONF, composed

from experiments.data import load
from experiments.data.datasets import synthetic
from experiments.tasks.evaluation import judge as module
from experiments.tasks.evaluation.contestants import contestants
from experiments.tasks.evaluation.judge import Entrant, Judge, file_name
from experiments.tasks.evaluation.truth_flow import TruthFlow
from propainter.inference import pipeline as inference
from variants import UnsupportedError

CPU = torch.device("cpu")


class SomeWeights:
    """The narrow networks in place of loaded ones."""

    source, architecture, fingerprint, reason = "seeded", "published", "0", None

    def __init__(self, networks):
        self.networks = lambda: networks


@pytest.fixture
def setup(narrow, monkeypatch, tmp_path):
    def make(*presets, average="float"):
        cfg = composed("experiment=evaluate", "schedule.raft_iterations=1")
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            chosen = contestants(cfg, list(presets) or ["published"])
        weights = SomeWeights(narrow)
        flow = TruthFlow.of(weights, CPU)
        judge = Judge(cfg, tmp_path, CPU, weights, average, False, flow, [average])
        return judge, [Entrant.of(one, weights, CPU, average) for one in chosen]

    return make


@pytest.fixture(scope="module")
def clip():
    source = synthetic(1, 3, 128, 128).videos["synthetic 0"]()
    return load(source), source


def test_the_whole_video_at_once_and_means_in_float(setup, clip, monkeypatch):
    judge, (entrant,) = setup()
    asked = []
    original = inference.propagate_pixels

    def propagate(frames, flows, masks, *lengths):
        asked.append(lengths)
        return original(frames, flows, masks, *lengths)

    monkeypatch.setattr(inference, "propagate_pixels", propagate)
    entrant.pipeline.schedule = entrant.pipeline.schedule.__class__(
        raft_iterations=1, neighbor_length=20, subvideo_length=2
    )
    record, made = judge.record(entrant, "a video", *clip)
    assert made and record["status"] == "ok", record["reason"]
    assert asked == [(3, sys.maxsize)]  # as long as the clip, whatever the schedule and the limit of inference say
    assert entrant.pipeline.schedule.subvideo_length == 2
    assert record["evaluation"]["average"] == "float" and record["data"]["name"] == "a video"


def test_records_are_kept_until_something_changes(setup, clip, tmp_path):
    judge, (entrant,) = setup()
    first, made = judge.record(entrant, "v", *clip)
    assert made and judge.record(entrant, "v", *clip) == (first, False)
    # One that went well is not overwritten where its video is away for now.
    assert judge.failed(entrant.one, "v", "failed", "gone")["status"] == "failed"
    assert json.loads(judge.path(entrant.one, "v").read_text()) == first
    loaded, source = clip
    other_truth = loaded.__class__(**{**vars(loaded), "truth": 255 - loaded.truth})
    assert judge.record(entrant, "v", other_truth, source)[1]
    rounded, (uint8,) = setup(average="uint8")
    again, made = rounded.record(uint8, "v", *clip)
    assert made and again["evaluation"]["average"] == "uint8"


def test_a_record_is_not_the_evaluations_run(setup, clip):
    judge, (entrant,) = setup()
    ids = {judge.failed(entrant.one, video, "failed", "")["run"]["id"] for video in ("v", "w")}
    assert len(ids | {module.run_section(judge.cfg)["id"]}) == 3


def test_only_a_first_run_is_left_out_of_the_times(setup, clip):
    judge, (plain, probing) = setup("published", {"chunking": "auto"})
    loaded, source = clip
    shorter = loaded.__class__(**{**vars(loaded), **{name: vars(loaded)[name][:2] for name in ("frames", "masks")}})
    assert [plain.shape_key(one) for one in (loaded, shorter)] == [None, None]
    assert probing.shape_key(loaded) != probing.shape_key(shorter)
    first = [judge.record(plain, name, *clip)[0]["evaluation"]["first_of_process"] for name in ("v", "w")]
    assert first == [True, False]


def test_streaming_is_refused(setup):
    with pytest.raises(UnsupportedError, match="residency=streaming rounds what windows give and cuts long videos"):
        setup({"residency": "streaming"})


def test_a_failure_is_a_record(setup, clip, monkeypatch):
    judge, (entrant,) = setup()
    monkeypatch.setattr(module, "first_run", lambda *given: 1 / 0)
    record, _ = judge.record(entrant, "v", *clip)
    assert record["status"] == "failed" and record["reason"].startswith("ZeroDivisionError")


def test_names_of_files_stay_apart():
    assert file_name("bmx-trees") == "bmx-trees" and file_name("published#1f") == "published#1f"
    names = [file_name(name) for name in ("a b", "a_b", "a/b", "a:b", "x" * 300, "x" * 299 + "y")]
    assert len(set(names)) == 6 and not any(set("/: ") & set(name) or len(name) > 140 for name in names)


def test_no_flow_with_seeded_weights_and_dis_with_small_ones(clip):
    loaded, source = clip
    weights = SomeWeights(None)
    assert TruthFlow.of(weights, CPU)(loaded, source) == (None, None)
    weights.source = "small"
    flow = TruthFlow.of(weights, CPU)
    flows, name = flow(loaded, source)
    assert name == "exact" and np.array_equal(flows[0], source.exact_flow()[0])
    filmed = type("Filmed", (), {"exact_flow": lambda self: None})()
    flows, name = flow(loaded, filmed)
    assert name == "dis" and flows[0].shape == (2, 2, 128, 128)
