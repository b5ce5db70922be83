"""Training as a task: checkpoints, going on, several processes, signals, and what is left."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.command_line import ROOT
from support.training import TINY, TINY_GENERATOR, recipe, trained

from experiments.data.training_clips import Updates
from experiments.launch.cli import exit_code
from experiments.tasks.training import loop, networks, train
from experiments.tasks.training.state import Training, averaging, read_checkpoint
from propainter import InputError
from propainter.weights import load_file as load_networks_file

SMALL = ["train=small_completion", *TINY]


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stopping(monkeypatch, update: int, number: int = signal.SIGTERM) -> None:
    """A signal to this process during that update."""
    original = Training.update

    def interrupted(self, batch):
        if self.update_number == update:
            os.kill(os.getpid(), number)
        return original(self, batch)

    monkeypatch.setattr(Training, "update", interrupted)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A training of four updates."""
    folder = tmp_path_factory.mktemp("straight")
    assert trained(folder, *SMALL) == "ok"
    return folder


class TestStraight:
    def test_leaves_log_record_and_weights(self, straight):
        rows = log_of(straight)
        assert [row["update"] for row in rows] == ["0", "1", "2", "3"]
        record = json.loads((straight / "training.json").read_text())
        assert (record["kind"], record["status"], record["updates"]) == ("train", "ok", 4)
        assert record["losses"]["total"] == pytest.approx(np.mean([float(row["total"]) for row in rows]))
        assert record["recipe"]["widths"] == {"channels": 4}
        assert record["seconds"] > 0 and record["peak_bytes"] > 0 and 0 <= record["waiting_share"] < 1
        assert {"device", "commit", "torch"} <= record["environment"].keys()
        assert list((straight / "tensorboard").glob("events*"))
        assert not list(straight.glob(".*part*"))

    def test_total_is_the_weighted_sum(self, straight):
        weights = json.loads((straight / "training.json").read_text())["recipe"]["losses"]
        for row in log_of(straight):
            total = sum(weight * float(row[name]) for name, weight in weights.items() if weight)
            assert float(row["total"]) == pytest.approx(total, rel=1e-5)

    def test_weights_are_the_moving_average(self, straight):
        stored, checkpoint = load_file(straight / "weights.safetensors"), read_checkpoint(straight)
        for name, tensor in stored.items():
            assert tensor.equal(checkpoint["average"][name.replace("flow_completion.", "module.", 1)]), name
        assert any(not stored[f"flow_completion.{name}"].equal(x) for name, x in checkpoint["network"].items())

    def test_other_weights_of_the_seed_are_refused_by_their_widths(self, straight, caplog, tmp_path):
        assert trained(tmp_path / "a", *SMALL, f"train.start={straight}", "train.widths={channels: 8}") == "failed"
        assert "other widths" in caplog.text

    def test_another_training_begins_with_its_weights(self, straight):
        network = networks.build_network(recipe(f"train.start={straight}"))
        stored = load_file(straight / "weights.safetensors")
        assert all(x.equal(stored[f"flow_completion.{name}"]) for name, x in network.state_dict().items())


class TestResume:
    def test_losses_and_weights_are_those_of_a_straight_run(self, straight, tmp_path, monkeypatch, caplog):
        folder = tmp_path / "stopped"
        with monkeypatch.context() as patched:
            stopping(patched, 1)
            assert trained(folder, *SMALL) == "terminated"
        assert f"resume={folder}" in caplog.text
        assert len(log_of(folder)) == 2
        assert not (folder / "weights.safetensors").exists()
        assert json.loads((folder / "training.json").read_text())["status"] == "terminated"
        assert trained(folder, *SMALL, f"resume={folder}", "train.workers=1") == "ok"
        assert (folder / "log.csv").read_text() == (straight / "log.csv").read_text()
        one, other = (load_file(path / "weights.safetensors") for path in (folder, straight))
        assert all(tensor.equal(other[name]) for name, tensor in one.items())
        record = json.loads((folder / "training.json").read_text())
        assert (record["updates"], record["updates_here"]) == (4, 2)

    def test_lines_after_the_checkpoint_are_made_again(self, straight, tmp_path):
        folder = tmp_path / "killed"
        shutil.copytree(straight, folder)
        rows = (folder / "log.csv").read_text().splitlines()
        (folder / "log.csv").write_text("\n".join([*rows, "4,0.1,9,9,9,9", "5,0.1,9"]) + "\n")
        loop._cut(folder / "log.csv", 4)
        assert (folder / "log.csv").read_text().splitlines() == rows

    def test_a_complete_one_is_left_alone(self, straight, capsys):
        before = (straight / "checkpoint.pt").stat().st_mtime_ns
        assert trained(straight, *SMALL, f"resume={straight}") == "ok"
        assert "complete" in capsys.readouterr().out
        assert (straight / "checkpoint.pt").stat().st_mtime_ns == before

    @pytest.mark.parametrize("change", ["train.seed=3", "train.steps=9", "train.batch=4", "train.ema=0.9"])
    def test_another_recipe_is_refused(self, straight, change, caplog):
        assert trained(straight, *SMALL, f"resume={straight}", change) == "failed"
        assert change.split("=")[0] in caplog.text and "Traceback" not in caplog.text

    @pytest.mark.parametrize("content", [None, b"", b"PK nonsense"])
    def test_without_a_checkpoint(self, tmp_path, content, caplog):
        if content is not None:
            (tmp_path / "checkpoint.pt").write_bytes(content)
        assert trained(tmp_path, *SMALL, f"resume={tmp_path}") == "failed"
        assert "anew" in caplog.text and "Traceback" not in caplog.text

    def test_a_truncated_checkpoint(self, straight, tmp_path):
        whole = (straight / "checkpoint.pt").read_bytes()
        (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="can't be read"):
            read_checkpoint(tmp_path)


class TestGenerator:
    @pytest.mark.slow
    def test_with_a_trained_completion_and_a_late_discriminator(self, tmp_path):
        """Small widths, so that the whole file can be written: it is what weights=small takes."""
        completion, folder = tmp_path / "completion", tmp_path / "generator"
        own = ["train.widths=null", "train.steps=1"]
        assert trained(completion, *SMALL, *own) == "ok"
        options = ["train=small_generator", *TINY_GENERATOR, "train.widths=null", "train.steps=2", "train.batch=1"]
        options += ["train.discriminator_from=1", "train.losses.adversarial=0.01", "train.checkpointing=all"]
        options += ["train.references=1", "train.frames=[5]", "train.windows=2", "train.window=3", "train.crop=[32,32]"]
        assert trained(folder, *options, f"train.flow_completion={completion}") == "ok"
        first, second = log_of(folder)
        assert first["adversarial"] == "" and float(second["discriminator"]) > 0
        networks = load_networks_file(folder / "networks.safetensors")
        assert networks.architecture == "small"
        stored = load_file(completion / "weights.safetensors")
        for name, tensor in networks.flow_completion.state_dict().items():
            assert torch.allclose(tensor, stored[f"flow_completion.{name}"], atol=1e-3)

    def test_needs_a_completion(self, tmp_path, caplog):
        options = ["train=small_generator", *TINY_GENERATOR]
        assert trained(tmp_path / "a", *options, f"train.flow_completion={tmp_path}") == "failed"
        assert "train.flow_completion" in caplog.text and "Traceback" not in caplog.text


class TestFolder:
    @pytest.mark.slow
    def test_raft_is_the_truth_of_filmed_videos(self, tmp_path):
        for number in range(3):
            (tmp_path / "videos" / "a").mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(0).integers(0, 255, (128, 140, 3), dtype=np.uint8)
            Image.fromarray(pixels[:, number : number + 128]).save(tmp_path / "videos" / "a" / f"{number}.png")
        options = [*SMALL, "train.data=folder", f"train.root={tmp_path / 'videos'}", "train.frames=[2]"]
        options += ["train.height=128", "train.width=128", "train.batch=1", "train.steps=1", "train.raft_iterations=1"]
        options += ["train.architecture=published", "weights=seeded", "train.mask_margin=0"]
        assert trained(tmp_path / "run", *options) == "ok"
        assert float(log_of(tmp_path / "run")[0]["hole"]) > 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "status", "says"),
        [
            ("train.precision=fp16", "unsupported", "bf16"),
            ("train.architecture=huge", "failed", "published or small"),
            ("train.widths={channels: wide}", "failed", "can't be built"),
            ("train.widths={channels: 0}", "failed", "above 0"),
            ("train.network=generator", "failed", "train.losses"),
            ("train.start=nowhere", "failed", "not there"),
            ("train.root=nowhere train.data=folder", "failed", "not there"),
        ],
    )
    def test_in_one_sentence(self, tmp_path, change, status, says, caplog):
        extra = ["weights=seeded"] if "root" in change else []
        assert (
            trained(
                tmp_path / "a",
                *SMALL,
                *change.split(" train.")[:1],
                *extra,
                *(f"train.{rest}" for rest in change.split(" train.")[1:]),
            )
            == status
        )
        assert says in caplog.text and "Traceback" not in caplog.text
        assert not (tmp_path / "a" / "checkpoint.pt").exists()

    def test_a_loss_that_is_not_finite_keeps_the_checkpoint_before(self, tmp_path, monkeypatch, caplog):
        original = Training.update

        def broken(self, batch):
            losses = original(self, batch)
            return {**losses, "total": losses["total"] * float("nan")} if self.update_number == 3 else losses

        monkeypatch.setattr(Training, "update", broken)
        assert trained(tmp_path, *SMALL, "train.save_minutes=0.00001") == "non_finite"
        assert "total is nan at update 2" in caplog.text
        assert read_checkpoint(tmp_path)["update_number"] == 2


def test_precision_bf16_trains(tmp_path):
    assert trained(tmp_path, *SMALL, "train.precision=bf16", "train.steps=1", "train.checkpointing=all") == "ok"


def test_moving_average_follows_early_and_slowly_later():
    update = averaging(0.999)
    average, value = torch.zeros(1), torch.ones(1)
    update([average], [value], torch.tensor(1))
    assert average.item() == pytest.approx(1 - 2 / 11)
    average.zero_()
    update([average], [value], torch.tensor(10**6))
    assert average.item() == pytest.approx(0.001, rel=1e-3)


def test_exit_codes_of_signals():
    assert [exit_code([status], sweep=False) for status in ("ok", "interrupted", "terminated")] == [0, 130, 143]


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one(straight, tmp_path):
    """Over gloo: the same clips in both, half a batch each; the second update sees the first one's gradients."""
    assert trained(tmp_path, *SMALL, "train.devices=2", "train.log_every=2") == "ok"
    assert "update 2 of 4, 0 minutes left; hole " in (tmp_path / "run.log").read_text()  # of the first process alone
    assert (tmp_path / "run.log").read_text().count("minutes left") == 1
    for one, other in zip(log_of(straight), log_of(tmp_path), strict=True):
        for name, value in one.items():
            assert float(other[name]) == pytest.approx(float(value), rel=1e-4), (name, one["update"])
    weights = [load_file(folder / "weights.safetensors") for folder in (straight, tmp_path)]
    moments = [read_checkpoint(folder)["optimizer"]["state"] for folder in (straight, tmp_path)]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-5), name
    for number, state in moments[0].items():  # the gradients' averages
        assert torch.allclose(state["exp_avg"], moments[1][number]["exp_avg"], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, code):
    """The whole group of processes gets it, as by a terminal's Ctrl-C or a scheduler's end of time."""
    folder = tmp_path / "run"
    command = [sys.executable, str(ROOT / "run.py"), "experiment=train", *SMALL, "train.steps=5000"]
    process = subprocess.Popen(
        [*command, f"hydra.run.dir={folder}"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (folder / "log.csv").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code
    assert f"python run.py resume={folder} does the rest" in errors and "Traceback" not in errors
    assert " minutes left; " in errors
    done = read_checkpoint(folder)["update_number"]
    assert 0 < done < 5000
    assert [int(row["update"]) for row in log_of(folder)] == list(range(done))
    assert len(Updates(done, 5000, 2)) == 5000 - done


@pytest.mark.slow
def test_a_bad_picture_in_a_loader_of_one_of_two_processes_ends_all_in_a_sentence(tmp_path):
    """The run of processes ends: no loader that ignores SIGTERM is waited for."""
    (tmp_path / "videos" / "a").mkdir(parents=True)
    for number in range(2):
        (tmp_path / "videos" / "a" / f"{number}.png").write_bytes(b"no picture")
    options = ["train=completion", "weights=seeded", "train.data=folder", f"train.root={tmp_path / 'videos'}"]
    options += ["train.frames=[2]", "train.references=0", "train.height=128", "train.width=128", "train.batch=2"]
    options += ["train.devices=2", "train.workers=1", f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, str(ROOT / "run.py"), "experiment=train", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert ".png cannot be read as an image" in done.stderr.splitlines()[-1]


def test_the_libraries_are_named_where_they_lack(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert trained(tmp_path, *SMALL) == "failed"
    assert "propainter-bench[training]" in caplog.text
