"""`python -m propainter.export`: files, manifest and parity; wrong input in one sentence."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
import torch
from support.narrow import narrow_networks

from propainter.export import __main__ as command
from propainter.export.description import read_description
from propainter.export.runners import onnxruntime_runner, openvino_runner

SMALLEST = ["--height", "128", "--width", "136", "--frames", "3", "--raft-iterations", "1"]


@pytest.fixture
def weights(monkeypatch):
    """Narrow networks are no architecture that a file could name: `_networks` gives them."""
    monkeypatch.setattr(command, "_networks", lambda *options: narrow_networks())


@pytest.mark.slow
def test_files_and_manifest(weights, tmp_path):
    onnx_folder = tmp_path / "onnx"
    assert command.main(["-o", str(onnx_folder), *SMALLEST]) == 0
    manifest = json.loads((onnx_folder / "manifest.json").read_text())
    assert {entry["component"] for entry in manifest["files"]} == {
        *("raft", "flow_completion", "encoder", "feature_propagation", "transformer", "decoder")
    }
    for entry in manifest["files"]:
        path = onnx_folder / entry["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert entry["parity"]["relative"] < 1e-4, entry["component"]
        description = read_description(path)
        assert (description.component, description.opset, description.torch) == (
            entry["component"],
            20,
            torch.__version__,
        )
        assert {opset.version for opset in onnx.load(path).opset_import if opset.domain == ""} == {20}
    assert manifest["pipeline"]["psnr_hole_db"] is None or manifest["pipeline"]["psnr_hole_db"] > 60
    assert {path.name for path in onnx_folder.iterdir()} == {
        "manifest.json", *(entry["file"] for entry in manifest["files"])
    }  # fmt: skip

    # Another number of frames than that of the export.
    encoder = narrow_networks().generator.encoder
    frames = torch.rand(7, 5, 128, 136)
    with torch.inference_mode():
        for count in (1, 7):
            got = onnxruntime_runner(onnx_folder / "encoder.onnx")(frames[:count])
            assert torch.allclose(got, encoder(frames[:count]), atol=1e-5)


SIGNAL = """
import os, signal, sys, threading
from pathlib import Path
import torch
from propainter.export.runners import openvino_runner

signal.signal(signal.SIGUSR1, lambda number, frame: print("handled", number))
runners = [openvino_runner(Path(sys.argv[1])) for _ in range(2)]
for run in runners:
    run(torch.rand(1, 32, 32, 34))
del run
thread = threading.Thread(target=runners.clear)  # as the garbage collector may in any thread
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""
"""OpenVINO's plugin gives the thread that makes it a stack for signals, and frees it in whatever thread it ends."""


@pytest.mark.slow
def test_openvino_and_some_components(weights, tmp_path, capsys):
    folder = tmp_path / "files"
    options = ["--to", "openvino", "--components", "decoder,feature_propagation"]
    assert command.main(["-o", str(folder), *SMALLEST, *options]) == 0
    assert "written: " in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {entry["component"] for entry in manifest["files"]} == {"decoder", "feature_propagation"}
    assert all(
        entry["parity"]["relative"] < 1e-4 and entry["parity"]["by"] == "openvino" for entry in manifest["files"]
    )
    decoder = narrow_networks().generator.decoder
    features = torch.rand(3, 32, 32, 34)
    with torch.inference_mode():
        assert torch.allclose(openvino_runner(folder / "decoder.zip")(features), decoder(features), atol=1e-5)
    done = subprocess.run([sys.executable, "-c", SIGNAL, folder / "decoder.zip"], text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "handled 10\n"), done.stderr


@pytest.mark.slow
def test_aoti_compiles_a_component_that_loads_as_it_is(weights, tmp_path, capsys, caplog):
    """The only test of the compiler's files; it takes half a minute."""
    folder = tmp_path / "files"
    assert command.main(["-o", str(folder), *SMALLEST, "--to", "aoti", "--components", "decoder"]) == 0
    (entry,) = json.loads((folder / "manifest.json").read_text())["files"]
    assert entry["parity"]["relative"] < 1e-4 and entry["device"] and entry["opset"] is None
    assert read_description(folder / "decoder.pt2").component == "decoder"
    assert "outdated" not in caplog.text, "a file outside the archive's own folder is taken for an old format"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--opset", "18"], "--opset is 18; give 19 or newer: older operator sets have no DeformConv"),
        (["--to", "tflite"], "--to is 'tflite'; give one of onnx, openvino, aoti"),
        (["--components", "decoder,foo"], "--components names 'foo'; give some of raft,"),
        (["--components", "raft"], "--components names raft alone, and the small weights have none"),
        (["--components", ","], "--components names nothing"),
        (["--height", "100"], "--height is 100; give a multiple of 8, at least 128"),
        (["--width", "132"], "--width is 132; give a multiple of 8"),
        (["--neighbor-length", "1"], "--neighbor-length is 1; give a whole number of at least 2"),
        (["--frames", "1"], "--frames is 1; give a whole number of at least 2"),
        (["--weights", "nothing"], "--weights is 'nothing'; give small, seeded, pretrained, or a safetensors file"),
        (["--weights", "no.safetensors"], "no.safetensors does not exist"),
        (["--device", "tpu"], "--device is 'tpu'; give cpu or cuda"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_sentence_and_nothing_is_written(tmp_path, options, says, capsys):
    assert command.main(["-o", str(tmp_path / "new" / "files"), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_found_before_anything_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_networks", lambda *options: pytest.fail("the weights were loaded"))
    (tmp_path / "file").touch()
    assert command.main(["-o", str(tmp_path / "file" / "new")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "can't be written to" in line


def test_raft_is_left_out_where_the_weights_have_none(capsys):
    networks = replace(narrow_networks(), raft=None)
    assert command._components("raft,decoder", networks) == ["decoder"]
    assert "left out: raft" in capsys.readouterr().out
    assert "raft" not in command._components("all", networks)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("")
    assert command.main(["-o", str(tmp_path)]) == 1
    assert "which is a folder with something in it; give a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("propainter.export.files.find_spec", lambda name: None)
    assert command.main(["-o", str(tmp_path / "files")]) == 1
    assert "export to onnx needs onnx; install it with pip install 'propainter-bench[onnx]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failure_leaves_nothing(weights, tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write", fails)
    assert command.main(["-o", str(tmp_path / "files"), *SMALLEST]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_exporter_that_fails_names_the_component(weights, tmp_path, monkeypatch, capsys):
    def fails(*arguments):
        raise RuntimeError("no such operation\nsecond line")

    monkeypatch.setattr(command, "write", fails)
    assert command.main(["-o", str(tmp_path / "files"), *SMALLEST, "--components", "decoder"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "decoder" in line]
    assert line.startswith("decoder can't be exported to onnx (RuntimeError: no such operation); leave it out")
    assert not list(tmp_path.iterdir())
