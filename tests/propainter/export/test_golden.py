"""Exported components of the published networks give the golden data, by onnxruntime."""

import copy

import pytest
import torch
from support.golden import TOLERANCE, difference, thinned

from propainter import Pipeline, Schedule
from propainter.export.components import module_of, take_over
from propainter.export.description import describe
from propainter.export.files import write
from propainter.export.probe import Recorder
from propainter.export.runners import onnxruntime_runner
from propainter.models.flow_completion import predict_flow

pytestmark = pytest.mark.slow


def exported(name, module, inputs, folder):
    path = folder / f"{name}.onnx"
    write(describe(name, module, inputs, "published"), module, inputs, path)
    return onnxruntime_runner(path)


@torch.inference_mode()
def test_raft(networks, golden, tmp_path):
    data = golden.tensors("raft")
    frames = data["frames"] / 127
    module = module_of(Pipeline(networks, Schedule(raft_iterations=6)), "raft")
    call = exported("raft", module, (frames[:-1], frames[1:]), tmp_path)
    assert difference(thinned(call(frames[:-1], frames[1:])), data["flow"]) < TOLERANCE
    assert difference(thinned(call(frames[1:], frames[:-1])), data["flow_b"]) < TOLERANCE
    # One pair, where the file was exported for two.
    assert difference(thinned(call(frames[:1], frames[1:2])), data["flow"][:1]) < TOLERANCE


@torch.inference_mode()
def test_flow_completion(networks, golden, tmp_path):
    data = golden.tensors("flow_completion")
    flows, masks = (data["flow_f"], data["flow_b"]), data["masks"]
    module = module_of(Pipeline(networks), "flow_completion")
    call = exported("flow_completion", module, (flows[0], masks[:, 1:]), tmp_path)
    forward, backward = predict_flow(call, flows, masks)
    assert difference(thinned(forward), data["pred_f"]) < TOLERANCE
    assert difference(thinned(backward), data["pred_b"]) < TOLERANCE


@torch.inference_mode()
def test_generator(networks, golden, tmp_path):
    data, expected = golden.tensors("propagation"), golden.tensors("generator")
    count, masks = int(expected["num_local_frames"]), data["masks"]
    frames = data["frames"] / 127 * (1 - masks) + data["prop_frames"] / 127 * masks
    flows = data["flow_f"][:, : count - 1], data["flow_b"][:, : count - 1]
    with torch.inference_mode(False):  # as a user's networks are built
        pipeline = Pipeline(copy.deepcopy(networks))
    generator = pipeline.networks.generator
    recorder = Recorder(pipeline, ["encoder", "feature_propagation", "transformer", "decoder"])
    generator(frames, flows, masks, data["updated_masks"], count)
    for name, module in recorder.modules.items():
        ((inputs, _),) = recorder.examples[name].values()
        take_over(pipeline, name, exported(name, module, inputs, tmp_path))
    output = generator(frames, flows, masks, data["updated_masks"], count)
    assert difference(thinned(output), expected["output"]) < TOLERANCE
