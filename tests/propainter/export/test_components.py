"""Components: taken over by torch's own computation, the pipeline gives what it gave."""

import copy

import numpy as np
import pytest
import torch
from support.clips import clip

from propainter import Pipeline, Schedule
from propainter.export.components import COMPONENTS, module_of
from propainter.export.probe import Recorder, probe_clip
from propainter.models.networks import build_networks
from variants import components as variants_components

SHORT = Schedule(raft_iterations=1, neighbor_length=4, ref_stride=2)


def test_names_are_those_of_options():
    assert tuple(COMPONENTS) == variants_components.COMPONENTS


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["published", "small"])
def test_each_is_called_and_nothing_changes(narrow, architecture):
    networks = copy.deepcopy(narrow) if architecture == "published" else build_networks("small")
    video, masks = clip(5)
    expected = Pipeline(copy.deepcopy(networks), SHORT)(video, masks)
    pipeline = Pipeline(networks, SHORT)
    recorder = Recorder(pipeline, list(COMPONENTS))
    output = pipeline(video, masks)
    assert np.abs(output.astype(int) - expected).max() <= 1
    names = [name for name in COMPONENTS if name != "raft" or architecture == "published"]
    assert list(recorder.modules) == names
    assert all(recorder.examples[name] for name in names)
    for name in names:
        for shape, (inputs, result) in recorder.examples[name].items():
            assert str(COMPONENTS[name].shape_names(inputs)) == shape
            with torch.inference_mode():
                assert torch.equal(recorder.modules[name](*inputs), result)


def test_weights_are_shared_and_the_networks_stay(narrow):
    networks = copy.deepcopy(narrow)
    pipeline = Pipeline(networks, SHORT)
    for name in COMPONENTS:
        module = module_of(pipeline, name)
        own = {
            id(parameter)
            for part in vars(networks).values()
            if hasattr(part, "parameters")
            for parameter in part.parameters()
        }
        assert {id(parameter) for parameter in module.parameters()} <= own
    assert "forward" not in vars(networks.generator.encoder)


def test_probe_clip_moves_and_has_a_hole_in_each_frame():
    video, masks = probe_clip(6, 128, 160)
    assert video.shape == (6, 128, 160, 3) and masks.shape == (6, 128, 160)
    assert all(0.01 < mask.mean() < 0.3 for mask in masks)
    assert not np.array_equal(video[0], video[1])
    # The camera moves by two pixels a frame, both ways.
    assert np.array_equal(video[1, :-2, :-2], video[0, 2:, 2:])
