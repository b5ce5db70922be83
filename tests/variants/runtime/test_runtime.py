"""Components outside torch: the result and the report, what is refused, what is wrong, and files of other weights."""

import copy
import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hydra.utils import instantiate
from onnx import numpy_helper
from support.clips import clip
from support.configs import composed
from support.narrow import narrow_networks
from support.options import OPTIONS_OF, marked
from support.reusing import hole_psnr

from propainter import InputError, Pipeline, Schedule
from propainter.export import __main__ as command
from propainter.export.components import COMPONENTS, module_of
from propainter.export.description import describe, read_description
from propainter.io.disk_cache import DiskLRUCache
from variants import GROUPS, UnsupportedError, apply, needs_cuda
from variants.runtime.component_call import ComponentCall, runtimes_allowed
from variants.runtime.stores import ExportCache

SHORT = Schedule(raft_iterations=1, neighbor_length=4, ref_stride=2)
QUICK = "runtime.components=[encoder,decoder]"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def published(narrow):
    return Pipeline(copy.deepcopy(narrow), SHORT)


def built(narrow, *overrides: str) -> Pipeline:
    """A pipeline with these options and the published ones of all other groups, as a run builds it."""
    cfg = composed(*overrides)
    return apply(Pipeline(copy.deepcopy(narrow), SHORT), {group: instantiate(cfg[group]) for group in GROUPS})


def components_of(pipeline: Pipeline) -> dict:
    return pipeline.effective["runtime"]["components"]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["onnxruntime", "openvino"])
def test_all_components_give_the_published_result(published, narrow, cache, option):
    video, masks = clip(3)
    expected = published(video, masks)
    pipeline = built(narrow, f"runtime={option}", f"runtime.folder={cache}")
    output = pipeline(video, masks)
    assert hole_psnr(output, expected, masks) > 60
    reports = components_of(pipeline)
    assert list(reports) == list(COMPONENTS)
    assert {report["status"] for report in reports.values()} == {option}
    assert all(report["files"] >= 1 and report["export_s"] > 0 and report["build_s"] > 0 for report in reports.values())
    assert all(report["largest_error"] <= 1e-4 * report["of"] for report in reports.values())
    assert pipeline.effective["runtime"]["version"]
    assert set(pipeline.outside_torch) == set(COMPONENTS)


@pytest.mark.slow
def test_files_are_found_again(narrow, cache):
    video, masks = clip(3)
    for _ in range(2):
        pipeline = built(narrow, "runtime=onnxruntime", QUICK, f"runtime.folder={cache}")
        pipeline(video, masks)
        first = sum(report["export_s"] for report in components_of(pipeline).values())
    assert first == 0


@pytest.mark.slow
def test_two_at_once_share_a_folder_and_a_damaged_file_is_made_again(published, tmp_path):
    decoder = module_of(published, "decoder")
    inputs = (torch.rand(3, 32, 32, 34),)
    wanted = describe("decoder", decoder, inputs, "published")

    def export(_: int) -> tuple[Path, float]:
        return ExportCache(DiskLRUCache(tmp_path, 2**30, ".onnx")).get(wanted, decoder, inputs)

    with ThreadPoolExecutor(2) as pool:
        (one, _), (other, _) = pool.map(export, range(2))
    assert one == other and read_description(one) == wanted
    assert not list(tmp_path.glob(".*"))
    assert export(0)[1] == 0
    one.write_bytes(b"damaged")
    assert export(0)[1] > 0
    assert read_description(one) == wanted


@pytest.mark.slow
def test_torch_computes_where_operations_are_counted(narrow, cache):
    pipeline = built(narrow, "runtime=onnxruntime", QUICK, f"runtime.folder={cache}")
    with runtimes_allowed(False):
        pipeline(*clip(3))
    assert {report["files"] for report in components_of(pipeline).values()} == {0}


REFUSED = {
    "attention": "attention",
    "precision": "precision",
    "correlation": "correlation",
    "reuse": "reuse",
    "kernels": "kernels",
}
OPTIONS = [
    (group, option)
    for group in REFUSED
    for option in OPTIONS_OF[group][1:]
    if (group, option) not in marked(needs_cuda)
]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=map("=".join, OPTIONS))
def test_a_choice_that_would_be_ignored_is_refused(narrow, tmp_path, group, option):
    """Of every option of these groups, so that a new one is covered by being there."""
    with pytest.raises((InputError, UnsupportedError)) as error:
        built(narrow, f"{group}={option}", "runtime=onnxruntime", f"runtime.folder={tmp_path}")
    if isinstance(error.value, UnsupportedError):
        pytest.skip(f"needs another machine: {error.value}")
    assert re.search("would be ignored; give .* or leave .* out of runtime.components", str(error.value))
    assert REFUSED[group] in str(error.value)


def test_chunks_by_memory_are_refused(narrow, tmp_path):
    with pytest.raises(InputError, match="chunking=auto probes the memory of torch's own computation"):
        built(narrow, "runtime=onnxruntime", f"runtime.folder={tmp_path}", "chunking=auto")


def test_a_folder_that_cannot_be_written_to_is_a_warning(narrow, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    pipeline = built(
        narrow, "runtime=onnxruntime", "runtime.components=[decoder]", f"runtime.folder={tmp_path / 'file'}"
    )
    pipeline(*clip(3))
    assert "exported files are not kept" in caplog.text
    assert components_of(pipeline)["decoder"]["status"] == "onnxruntime"


@pytest.mark.parametrize("group", ["compile=default", "cuda_graphs=manual"])
def test_what_comes_after_is_refused_too(narrow, tmp_path, group):
    with pytest.raises((InputError, UnsupportedError), match="would be ignored there|needs a CUDA device"):
        built(narrow, "runtime=onnxruntime", f"runtime.folder={tmp_path}", group)


def test_a_choice_about_other_components_is_not_refused(narrow, tmp_path):
    pipeline = built(narrow, "attention=sdpa", "runtime=onnxruntime", QUICK, f"runtime.folder={tmp_path}")
    assert set(pipeline.outside_torch) == {"encoder", "decoder"}


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (["runtime=onnxruntime", "runtime.opset=18"], InputError, "runtime.opset is 18; give 19 or newer"),
        (["runtime=onnxruntime", "runtime.provider=npu"], InputError, "runtime.provider is 'npu'; give auto, cpu"),
        (["runtime=onnxruntime", "runtime.provider=cuda"], InputError, "the networks are on cpu; give auto"),
        (["runtime=onnxruntime", "runtime.threads=0"], InputError, "runtime.threads is 0"),
        (["runtime=onnxruntime", "runtime.tolerance=0"], InputError, "runtime.tolerance is 0; give a share above 0"),
        (["runtime=openvino", "runtime.components=[foo]"], InputError, "runtime.components names 'foo'"),
        (["runtime=openvino", "runtime.max_gb=-1"], InputError, "runtime.max_gb is -1"),
        (["runtime=onnxruntime", "runtime.components=[]"], InputError, "runtime.components names nothing; give some"),
        (["runtime=aoti", "runtime.max_shapes=0"], InputError, "runtime.max_shapes is 0"),
        (["runtime=onnxruntime", "runtime.files=/nowhere"], InputError, "which has no manifest.json; give a folder"),
        (["runtime=tensorrt"], UnsupportedError, "needs a CUDA device; on the CPU give runtime=onnxruntime"),
    ],
)
def test_wrong_options(narrow, settings, error, says):
    with pytest.raises(error) as raised:
        built(narrow, *settings)
    assert says in str(raised.value)


@pytest.mark.parametrize(("option", "package"), [("onnxruntime", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_unsupported(narrow, monkeypatch, option, package):
    monkeypatch.setattr("variants.runtime.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=f"{package} is not installed: pip install 'propainter-bench"):
        built(narrow, f"runtime={option}")


def test_without_raft_that_component_is_ignored(narrow, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pipeline = built(narrow, "flow_estimator=dis", "runtime=onnxruntime", f"runtime.folder={tmp_path}")
    assert components_of(pipeline)["raft"] == {"status": "ignored: no RAFT estimates the flow"}
    assert "raft" not in pipeline.outside_torch


class TestFailures:
    """Of the component's call, with a runtime made up here."""

    @pytest.fixture
    def made_up(self, narrow, monkeypatch, cache):
        """Return a pipeline of which a component, the decoder, is computed by the given callable of inputs."""

        def build(compute, *more: str, component: str = "decoder") -> Pipeline:
            settings = ["runtime=onnxruntime", f"runtime.components=[{component}]", f"runtime.folder={cache}", *more]
            pipeline = built(narrow, *settings)
            monkeypatch.setattr(ComponentCall, "_call_for", lambda self, inputs: (None, compute))
            return pipeline

        return build

    def test_what_a_runtime_lacks_stays_in_torch_and_says_so(self, made_up, published, caplog):
        def lacks(*inputs):
            raise RuntimeError("Check failed\n-- No conversion rule found for operations: DeformConv")

        pipeline = made_up(lacks)
        assert np.array_equal(pipeline(*clip(3)), published(*clip(3)))
        status = components_of(pipeline)["decoder"]["status"]
        assert status.startswith("torch, since onnxruntime failed: RuntimeError: No conversion rule found")
        assert "onnxruntime can't compute decoder, which stays in torch" in caplog.text

    def test_flow_that_torch_estimated_instead_is_not_kept(self, made_up, tmp_path, caplog):
        def lacks(*inputs):
            raise RuntimeError("gone")

        pipeline = made_up(lacks, "flow_cache=disk", f"flow_cache.folder={tmp_path}", component="raft")
        pipeline(*clip(3))
        assert pipeline.effective["flow_cache"]["kept"] == 0
        assert "flow is not kept: another way than raft(iterations=1) by onnxruntime" in caplog.text

    @pytest.mark.parametrize("wrong", [lambda x: x * 1.5, lambda x: x * float("nan")], ids=["values", "NaN"])
    def test_a_wrong_result_fails_the_run(self, made_up, narrow, wrong):
        decoder = copy.deepcopy(narrow.generator.decoder)
        pipeline = made_up(lambda x: wrong(decoder(x)))
        with pytest.raises(InputError, match=r"onnxruntime computes decoder wrong: its largest error beside torch is"):
            pipeline(*clip(3))

    def test_a_later_failure_falls_back_too(self, made_up, narrow, published):
        decoder, calls = copy.deepcopy(narrow.generator.decoder), []

        def fails_later(x):
            calls.append(x)
            if len(calls) > 2:
                raise RuntimeError("gone")
            return decoder(x)

        pipeline = made_up(fails_later)
        for _ in range(3):
            output = pipeline(*clip(3))
        assert hole_psnr(output, published(*clip(3)), clip(3)[1]) > 60
        assert components_of(pipeline)["decoder"]["status"] == "torch, since onnxruntime failed: RuntimeError: gone"

    def test_more_shapes_than_allowed_are_torchs(self, made_up, narrow):
        decoder = copy.deepcopy(narrow.generator.decoder)
        pipeline = made_up(decoder, "runtime.max_shapes=1")
        for size in ((128, 136), (128, 144)):
            pipeline(*clip(3, *size))
        assert components_of(pipeline)["decoder"]["calls_over_limit"] > 0

    def test_running_out_of_memory_is_no_fallback(self, made_up):
        def full(*inputs):
            raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(torch.OutOfMemoryError):
            made_up(full)(*clip(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Encoder and decoder, exported by hand."""
    folder = tmp_path_factory.mktemp("given") / "files"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_networks", lambda *options: narrow_networks())
        options = ["--height", "128", "--width", "136", "--frames", "3", "--components", "encoder,decoder"]
        assert command.main(["-o", str(folder), *options, "--raft-iterations", "1"]) == 0
    return folder


class TestGivenFiles:
    """`runtime.files`: a folder that was exported by hand."""

    def run(self, narrow, folder, size=(128, 136), **changes):
        networks = copy.deepcopy(narrow)
        for name, change in changes.items():
            change(getattr(networks, name))
        pipeline = built(networks, "runtime=onnxruntime", QUICK, f"runtime.files={folder}")
        pipeline(*clip(3, *size))
        return pipeline

    @pytest.mark.slow
    def test_are_used(self, narrow, folder):
        reports = components_of(self.run(narrow, folder))
        assert {(report["status"], report["export_s"]) for report in reports.values()} == {("onnxruntime", 0)}

    @pytest.mark.slow
    def test_of_another_size(self, narrow, folder):
        with pytest.raises(
            InputError, match=r"encoder.onnx does not fit: it takes frames_and_masks of .*136\], and this"
        ):
            self.run(narrow, folder, (128, 144))

    @pytest.mark.slow
    def test_of_other_weights(self, narrow, folder):
        def change(generator):
            generator.encoder.layers[0].weight.data[0, 0, 0, 0] += 1

        with pytest.raises(InputError, match="encoder.onnx does not fit: it holds other weights"):
            self.run(narrow, folder, generator=change)

    @pytest.mark.slow
    def test_of_no_such_component(self, narrow, folder):
        with pytest.raises(InputError, match="holds no file of transformer, only of decoder, encoder; give these as"):
            built(
                narrow,
                "runtime=onnxruntime",
                "runtime.components=[transformer]",
                f"runtime.files={folder}",
            )

    @pytest.mark.slow
    def test_of_another_runtime(self, narrow, folder):
        with pytest.raises(InputError, match="encoder.onnx does not fit: it is a file for runtime=onnxruntime; give"):
            built(narrow, "runtime=openvino", QUICK, f"runtime.files={folder}")

    @pytest.mark.slow
    def test_one_changed_weight_is_found(self, narrow, folder, tmp_path):
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        change_a_weight(tmp_path / "decoder.onnx")
        with pytest.raises(InputError, match="decoder.onnx was changed since its export"):
            self.run(narrow, tmp_path)
        # With the manifest changed as well, by the comparison with torch.
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        for entry in manifest["files"]:
            entry["sha256"] = hashlib.sha256((tmp_path / entry["file"]).read_bytes()).hexdigest()
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match="onnxruntime computes decoder wrong"):
            self.run(narrow, tmp_path)

    @pytest.mark.slow
    @pytest.mark.parametrize("content", ["", "{}", '{"files": [{"file": "decoder.onnx"}]}', '{"files": 3}'])
    def test_a_damaged_manifest(self, narrow, folder, tmp_path, content):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(InputError, match="manifest.json can't be read"):
            built(narrow, "runtime=onnxruntime", f"runtime.files={tmp_path}")


def change_a_weight(path) -> None:
    """Change the largest weight's first value by much."""
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(largest).copy()
    values.flat[0] += 100
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    onnx.save(model, path)


def test_options_are_in_the_groups():
    assert GROUPS["runtime"] == "torch" and OPTIONS_OF["runtime"][0] == "torch"
