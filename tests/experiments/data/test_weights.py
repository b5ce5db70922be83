"""Loading what the config group `weights` asks for, and refusing what contradicts itself."""

import logging

import pytest
import torch

from experiments.data.weights import load_networks
from experiments.data.weights_options import check_weights
from experiments.record.record import describe_weights
from propainter import InputError, build_networks, published_state, small
from propainter.weights import FILES, fingerprint, save_networks
from variants.presets import composed

NOWHERE = "weights.url=http://127.0.0.1:9/"


def options(*overrides):
    return composed([*overrides, NOWHERE], "cpu").weights


@pytest.fixture(scope="module")
def files(narrow, tmp_path_factory):
    """One file of small weights, and one of narrow networks of the published form."""
    folder = tmp_path_factory.mktemp("files")
    save_networks(build_networks("small"), folder / "small.safetensors")
    save_networks(narrow, folder / "published.safetensors")
    return folder


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """No released weights on this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PROPAINTER_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)


class TestSmall:
    def test_a_file(self, files):
        networks, weights = load_networks(options("weights=small", f"weights.file={files}/small.safetensors"))
        assert (weights.source, weights.architecture, networks.architecture) == ("small", "small", "small")
        assert networks.raft is None
        assert weights.fingerprint == fingerprint(networks) == fingerprint(weights.networks())
        assert weights.reason is None

    def test_the_shipped_ones(self, files, monkeypatch):
        monkeypatch.setattr(small, "FILE", files / "small.safetensors")
        networks, weights = load_networks(options("weights=small"))
        assert describe_weights(weights) == {
            "source": "small",
            "architecture": "small",
            "fingerprint": fingerprint(networks),
        }

    def test_networks_of_their_own(self, files):
        networks, weights = load_networks(options("weights=small", f"weights.file={files}/small.safetensors"))
        with torch.no_grad():
            networks.generator.decoder[6].bias += 1
        assert fingerprint(weights.networks()) == weights.fingerprint != fingerprint(networks)


class TestSeeded:
    def test_of_the_small_architecture(self):
        networks, weights = load_networks(options("weights=seeded", "weights.architecture=small"))
        assert (weights.source, weights.architecture, networks.raft) == ("seeded", "small", None)
        assert fingerprint(weights.networks()) == weights.fingerprint

    @pytest.mark.slow
    def test_of_the_published_one_are_those_of_the_baselines(self):
        _, weights = load_networks(options("weights=seeded"))
        assert (weights.architecture, weights.fingerprint) == ("published", "a0b08b509da9b7ab")


class TestRefused:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["weights.source=guessed"], "weights.source is 'guessed'; give one of auto, pretrained, small, seeded"),
            (["weights=seeded", "weights.architecture=tiny"], "weights.architecture is 'tiny'; give one of published"),
            (["weights=auto", "weights.architecture=small"], "architecture is small, which weights=auto does not"),
            (["weights=pretrained", "weights.architecture=small"], "which weights=pretrained does not choose"),
            (["weights=small", "weights.architecture=published"], "is published, which weights=small does not choose"),
            (["weights=seeded", "weights.file=x"], "weights.file is x, which weights=seeded does not read"),
            (["weights=auto", "weights.file=x"], "weights.file is x, which weights=auto does not read"),
            (["weights=small", "weights.dir=x"], "weights.dir is x, a folder for released files"),
            (["weights=pretrained", "weights.dir=x", "weights.file=y"], "weights.dir is x; give one of them"),
        ],
    )
    def test_settings_that_contradict_each_other(self, overrides, message):
        for refuse in (check_weights, load_networks):
            with pytest.raises(InputError, match=message):
                refuse(options(*overrides))

    @pytest.mark.parametrize(
        "overrides", [[], ["weights=small"], ["weights=small", "weights.architecture=small"], ["weights=pretrained"]]
    )
    def test_settings_that_do_not(self, overrides):
        check_weights(options(*overrides))

    def test_a_released_checkpoint_as_small_weights(self, tmp_path):
        path = tmp_path / FILES["generator"]
        torch.save({"decoder.6.bias": torch.zeros(3)}, path)
        with pytest.raises(InputError, match="ProPainter.pth can't be read as a safetensors file"):
            load_networks(options("weights=small", f"weights.file={path}"))

    def test_a_folder_as_small_weights(self, tmp_path):
        with pytest.raises(InputError, match="is a folder; give a safetensors file"):
            load_networks(options("weights=small", f"weights.file={tmp_path}"))

    def test_small_weights_as_published_ones(self, files):
        with pytest.raises(InputError, match="of the small architecture, and weights=pretrained .* give weights=small"):
            load_networks(options("weights=pretrained", f"weights.file={files}/small.safetensors"))

    def test_published_widths_as_small_weights(self, files):
        with pytest.raises(InputError, match="of the published architecture, and weights=small takes .* small one"):
            load_networks(options("weights=small", f"weights.file={files}/published.safetensors"))


class TestAuto:
    def test_small_weights_stand_in_and_are_named_once(self, files, monkeypatch, caplog):
        monkeypatch.setattr(small, "FILE", files / "small.safetensors")
        caplog.set_level(logging.WARNING)
        networks, weights = load_networks(options())
        assert (weights.source, weights.architecture) == ("small", "small")
        assert weights.fingerprint == fingerprint(networks) == fingerprint(weights.networks())
        assert "could not be downloaded" in weights.reason
        (warning,) = [record.message for record in caplog.records]
        assert warning.startswith("SMALL weights of this project stand in for the released ones")

    @pytest.mark.slow
    def test_released_ones_are_taken_where_they_are_found(self, networks, tmp_path, monkeypatch, caplog):
        for network, file in FILES.items():
            torch.save(published_state(networks, network), tmp_path / file)
        _, weights = load_networks(options(f"weights.dir={tmp_path}"))
        assert (weights.source, weights.architecture, weights.reason) == ("pretrained", "published", None)
        assert weights.fingerprint == fingerprint(networks)
        assert not caplog.records
