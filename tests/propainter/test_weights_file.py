"""Networks as one safetensors file: what it keeps, what it says, and what is refused in a sentence."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.narrow import narrow_networks

from propainter import InputError, build_networks, published_state, small
from propainter.models.networks import ARCHITECTURES
from propainter.weights import (
    empty_networks,
    fingerprint,
    load_file,
    load_pretrained,
    load_seeded,
    load_small,
    read_architecture,
    read_metadata,
    save_networks,
)


@pytest.fixture(scope="module")
def seeded():
    """Networks of the small architecture; tests must not change them."""
    networks = empty_networks("small")
    load_seeded(networks)
    return networks


@pytest.fixture(scope="module")
def shipped(seeded, tmp_path_factory):
    """Their file."""
    path = tmp_path_factory.mktemp("weights") / "deeper" / "small.safetensors"
    save_networks(seeded, path, licence="Apache-2.0", steps=12)
    return path


def contents(path) -> tuple[dict, dict]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def rewritten(source, target, tensors=(), leave_out=(), **metadata):
    """Write a file again with other tensors and metadata (None: without that entry)."""
    kept, said = contents(source)
    kept = {key: tensor for key, tensor in {**kept, **dict(tensors)}.items() if key not in leave_out}
    said = {key: value for key, value in {**said, **metadata}.items() if value is not None}
    save_file(kept, target, metadata=said)
    return target


class TestRoundTrip:
    def test_values_are_the_rounded_ones_in_float32(self, seeded, shipped):
        loaded = load_file(shipped)
        assert loaded.architecture == "small"
        assert loaded.raft is None
        for name in loaded.names:
            for key, tensor in published_state(loaded, name).items():
                wanted = published_state(seeded, name)[key]
                assert torch.equal(tensor, wanted.half().float() if wanted.is_floating_point() else wanted)
                assert tensor.dtype == wanted.dtype

    def test_float32_keeps_every_bit_and_the_fingerprint(self, seeded, tmp_path):
        said = save_networks(seeded, tmp_path / "exact.safetensors", torch.float32)
        assert fingerprint(load_file(tmp_path / "exact.safetensors")) == fingerprint(seeded) == said["fingerprint"]

    def test_metadata(self, shipped):
        said = read_metadata(shipped)
        assert said["fingerprint"] == fingerprint(load_file(shipped))
        assert {key: said[key] for key in ("architecture", "format", "licence", "steps")} == {
            "architecture": "small",
            "format": "1",
            "licence": "Apache-2.0",
            "steps": "12",
        }
        assert read_architecture(shipped) == "small"

    def test_names_are_the_published_after_the_network(self, shipped):
        tensors, _ = contents(shipped)
        assert {key.partition(".")[0] for key in tensors} == {"flow_completion", "generator"}
        assert "generator.decoder.6.bias" in tensors
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert shipped.stat().st_size < 8e6

    def test_a_file_with_its_architecture_alone_is_enough(self, shipped, tmp_path):
        """As the training writes it, in float32."""
        path = rewritten(shipped, tmp_path / "x.safetensors", format=None, fingerprint=None)
        assert fingerprint(load_file(path)) == read_metadata(shipped)["fingerprint"]

    def test_into_networks_that_are_there(self, shipped):
        networks = build_networks("small")
        assert load_file(shipped, networks) is networks
        assert fingerprint(networks) == read_metadata(shipped)["fingerprint"]

    @pytest.mark.slow
    def test_the_published_architecture_too(self, networks, tmp_path):
        save_networks(networks, tmp_path / "all.safetensors", torch.float32)
        loaded = load_file(tmp_path / "all.safetensors")
        assert loaded.architecture == "published"
        assert fingerprint(loaded) == fingerprint(networks)

    def test_the_shipped_file(self, shipped, monkeypatch):
        monkeypatch.setattr(small, "FILE", shipped)
        assert fingerprint(load_small()) == read_metadata(shipped)["fingerprint"]


class TestSaving:
    @pytest.mark.parametrize("value", [float("nan"), 1e6], ids=["not a number", "too large for float16"])
    def test_nothing_is_written_of_what_is_not_finite(self, value, tmp_path):
        networks = build_networks("small")
        with torch.no_grad():
            networks.generator.decoder[6].bias[0] = value
        with pytest.raises(InputError, match=r"generator.decoder.6.bias is not finite in torch.float16"):
            save_networks(networks, tmp_path / "x.safetensors")
        assert list(tmp_path.iterdir()) == []

    def test_metadata_that_the_file_sets_itself(self, seeded, tmp_path):
        with pytest.raises(InputError, match="the metadata's architecture is set by the file itself"):
            save_networks(seeded, tmp_path / "x.safetensors", architecture="published")


class TestRefused:
    @pytest.mark.parametrize(
        "content", [b"", b"PK\x03\x04" + bytes(60), b"<html>404</html>", struct.pack("<Q", 9) + b"{}"]
    )
    def test_other_formats(self, content, tmp_path):
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match="x.safetensors can't be read as a safetensors file"):
            load_file(path)

    def test_truncated(self, shipped, tmp_path):
        path = tmp_path / "half.safetensors"
        path.write_bytes(shipped.read_bytes()[:-1000])
        for read in (load_file, read_architecture):
            with pytest.raises(InputError, match="damaged, truncated"):
                read(path)

    def test_a_changed_bit(self, shipped, tmp_path):
        path = tmp_path / "changed.safetensors"
        content = bytearray(shipped.read_bytes())
        content[-100_000] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match="changed.safetensors is damaged: .* fingerprint"):
            load_file(path)

    @pytest.mark.parametrize(("path", "what"), [("", "is a folder"), ("no.safetensors", "does not exist")])
    def test_no_file(self, path, what, tmp_path):
        with pytest.raises(InputError, match=what):
            load_file(tmp_path / path)

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"architecture": None}, "does not say which architecture"),
            ({"architecture": "tiny"}, "unknown architecture 'tiny'; give one of published, small"),
            ({"format": "2"}, "is of version 2 .* reads version 1"),
        ],
    )
    def test_metadata(self, shipped, tmp_path, metadata, message):
        with pytest.raises(InputError, match=message):
            load_file(rewritten(shipped, tmp_path / "x.safetensors", **metadata))

    @pytest.mark.parametrize(
        ("tensors", "leave_out", "message"),
        [
            ({"generator.decoder.6.bias": torch.zeros(4)}, (), r"decoder.6.bias \[4\] instead of \[3\]"),
            ({"generator.decoder.6.bias": torch.tensor([0, torch.inf, 0])}, (), "1 not finite"),
            ({}, ("generator.decoder.6.bias",), "1 missing"),
            ({"generator.decoder.7.bias": torch.zeros(3)}, (), "1 unexpected"),
            ({"raft.fnet.conv1.bias": torch.zeros(3)}, (), "raft.fnet.conv1.bias, which is of no network"),
        ],
    )
    def test_tensors(self, shipped, tmp_path, tensors, leave_out, message):
        networks = build_networks("small")
        before = fingerprint(networks)
        with pytest.raises(InputError, match=message) as error:
            load_file(rewritten(shipped, tmp_path / "x.safetensors", tensors, leave_out), networks)
        assert "x.safetensors" in str(error.value)
        assert fingerprint(networks) == before

    def test_a_file_of_one_network(self, shipped, tmp_path):
        """As a training of the completion alone leaves it."""
        others = [key for key in contents(shipped)[0] if key.startswith("generator.")]
        path = rewritten(shipped, tmp_path / "x.safetensors", leave_out=others, fingerprint=None)
        with pytest.raises(InputError, match="x.safetensors holds no generator, which the small architecture has"):
            load_file(path)

    def test_other_widths(self, tmp_path):
        channels = ARCHITECTURES["small"]["flow_completion"]["channels"]
        save_networks(
            build_networks("small", flow_completion={"channels": 2 * channels}), tmp_path / "wide.safetensors"
        )
        with pytest.raises(InputError, match="of the small architecture's flow_completion .* another shape") as error:
            load_file(tmp_path / "wide.safetensors")
        assert len(str(error.value)) < 600

    def test_another_architecture(self, shipped, narrow):
        with pytest.raises(InputError, match="of the small architecture, and these networks are of the published one"):
            load_file(shipped, narrow)

    def test_released_files_into_small_networks(self, tmp_path):
        with pytest.raises(InputError, match="of the published architecture, and these networks are of the small one"):
            load_pretrained(empty_networks("small"), tmp_path, url="http://127.0.0.1:9/")

    def test_a_package_without_its_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(small, "FILE", tmp_path / "gone.safetensors")
        with pytest.raises(InputError, match="gone.safetensors is not there: .*; install it again"):
            load_small()

    def test_a_shipped_file_of_another_architecture(self, narrow, tmp_path, monkeypatch):
        monkeypatch.setattr(small, "FILE", tmp_path / "small.safetensors")
        monkeypatch.setattr("propainter.weights_file.empty_networks", lambda architecture: narrow_networks())
        save_networks(narrow, small.FILE)
        with pytest.raises(InputError, match="of the published architecture, not of the small one"):
            load_small()


def test_the_architecture_belongs_to_the_fingerprint(seeded):
    assert fingerprint(seeded) != fingerprint(build_networks("small"))
    as_published = type(seeded)(None, seeded.flow_completion, seeded.generator)
    assert fingerprint(as_published) != fingerprint(seeded)


def test_metadata_that_is_no_text_is_json(seeded, tmp_path):
    save_networks(seeded, tmp_path / "x.safetensors", psnr={"sample": 21.5})
    assert json.loads(read_metadata(tmp_path / "x.safetensors")["psnr"]) == {"sample": 21.5}
