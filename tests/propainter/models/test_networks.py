"""The networks against the golden data: what the published ones give with the seeded weights."""

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.command_line import ROOT

from propainter import (
    InputError,
    build_networks,
    complete_flow,
    estimate_flow,
    inpaint,
    load_weights,
    propagate_pixels,
    published_state,
    seeded_state_dict,
)
from propainter.inference.compositing import prepare_masks
from propainter.models.flow_completion import predict_flow

TOLERANCE = 2e-5
"""Largest difference, in units of the largest golden value."""

PUBLISHED_PREFIX = {"raft": "module.", "flow_completion": "", "generator": ""}


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def thinned(x: torch.Tensor) -> torch.Tensor:
    return x[..., ::2, ::2]


@pytest.mark.parametrize("network", ["raft", "flow_completion", "generator"])
def test_names_and_shapes_are_the_checkpoints(networks, golden, network):
    state = published_state(networks, network)
    assert {name: list(tensor.shape) for name, tensor in state.items()} == golden.json("manifest")[network]


def test_parameter_counts_are_the_published(networks):
    counts = {
        name: sum(p.numel() for p in getattr(networks, name).parameters()) / 1e6
        for name in ("raft", "flow_completion", "generator")
    }
    assert counts == pytest.approx({"raft": 5.26, "flow_completion": 5.08, "generator": 39.43}, abs=0.01)


def test_seeded_rule():
    state = seeded_state_dict("generator")
    start = state["encoder.layers.0.weight"].flatten()[:4]
    assert torch.allclose(start, torch.tensor([0.249878, 0.012547, -0.000358, 0.031864]), atol=1e-6)
    start = seeded_state_dict("raft")["fnet.conv1.weight"].flatten()[:4]
    assert torch.allclose(start, torch.tensor([-0.059965, 0.069873, -0.164560, -0.129285]), atol=1e-6)
    other = seeded_state_dict("generator", salt="pepper")
    assert not torch.equal(other["encoder.layers.0.weight"], state["encoder.layers.0.weight"])


def test_window_index_is_the_published(networks, golden):
    for block in networks.generator.transformers.transformer:
        assert block.attention.valid_ind_rolled.tolist() == golden.json("valid_ind_rolled")


def test_flow(networks, golden):
    data = golden.tensors("raft")
    flow_f, flow_b = estimate_flow(networks.raft, data["frames"][None] / 127, iterations=6)
    assert difference(thinned(flow_f)[0], data["flow"]) < TOLERANCE
    assert difference(thinned(flow_b)[0], data["flow_b"]) < TOLERANCE


def test_flow_completion(networks, golden):
    data = golden.tensors("flow_completion")
    flows = data["flow_f"], data["flow_b"]
    predicted = predict_flow(networks.flow_completion, flows, data["masks"])
    for got, name in zip(predicted, ("pred_f", "pred_b"), strict=True):
        assert difference(thinned(got), data[name]) < TOLERANCE


def test_flow_completion_in_subvideos(networks, golden):
    data = golden.tensors("flow_completion_tiled")
    hole = data["masks"] > 0
    flows = data["flow_f"], data["flow_b"]
    masks = data["masks"].expand(1, flows[0].shape[1] + 1, 1, -1, -1)
    completed = complete_flow(networks.flow_completion, flows, masks, int(data["subvideo_length"]))
    for got, flow, name in zip(completed, flows, ("in_hole_f", "in_hole_b"), strict=True):
        assert difference(got[..., hole], data[name]) < TOLERANCE
        assert torch.equal(got[..., ~hole], flow[..., ~hole])


def test_propagation(golden):
    data = golden.tensors("propagation")
    frames, masks = data["frames"] / 127, data["masks"]
    filled, remaining = propagate_pixels(frames * (1 - masks), (data["flow_f"], data["flow_b"]), masks)
    assert torch.equal((filled * 127).round(), data["prop_frames"])
    assert torch.equal(remaining, data["updated_masks"])


def test_propagation_in_subvideos(golden):
    data = golden.tensors("propagation_tiled")
    hole, frames = data["masks"] > 0, data["frames"] / 127
    masks = data["masks"].expand(1, frames.shape[1], 1, -1, -1)
    motion = data["motion"][None, :, :, None, None].expand(-1, -1, -1, *frames.shape[-2:])
    filled, remaining = propagate_pixels(frames * (1 - masks), (motion, -motion), masks, int(data["subvideo_length"]))
    assert torch.equal((filled * 127).round()[..., hole], data["prop_in_hole"])
    assert torch.equal(remaining[..., hole], data["updated_in_hole"])
    assert not remaining[..., ~hole].any()


def test_generator(networks, golden):
    data, expected = golden.tensors("propagation"), golden.tensors("generator")
    count, masks = int(expected["num_local_frames"]), data["masks"]
    frames = data["frames"] / 127 * (1 - masks) + data["prop_frames"] / 127 * masks
    flows = data["flow_f"][:, : count - 1], data["flow_b"][:, : count - 1]
    output = networks.generator(frames, flows, masks, data["updated_masks"], count)
    assert difference(thinned(output), expected["output"]) < TOLERANCE


def test_generator_plans_windows_from_the_original_mask(networks, golden):
    data = golden.tensors("generator_filled")
    flows = data["flow_f"], data["flow_b"]
    count = int(data["num_local_frames"])
    output = networks.generator(data["frames"] / 127, flows, data["masks"], data["updated_masks"], count)
    assert difference(thinned(output), data["output"]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("pipeline_short", dict(neighbor_length=6, ref_stride=4)),
        ("pipeline_long", dict(neighbor_length=6, ref_stride=2, subvideo_length=8)),
    ],
)
def test_pipeline(networks, golden, name, schedule):
    data = golden.arrays(name)
    masks, dilated = data["masks"], data["dilated_masks"]
    frames = golden.frames(name, len(masks))
    assert np.array_equal(prepare_masks(masks > 0, masks.shape[1:], dilation=4), dilated)
    output = inpaint(networks, frames, masks, raft_iterations=6, **schedule)
    hole = dilated > 0
    assert np.array_equal(output[~hole], frames[~hole])
    error = output[hole].astype(float) - data["output_in_hole"]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 60


def changed(state: dict, **changes) -> dict:
    """The state dict with some tensors replaced, or left out (None)."""
    return {name: tensor for name, tensor in {**state, **changes}.items() if tensor is not None}


class TestLoadWeights:
    @pytest.mark.parametrize("network", ["raft", "flow_completion", "generator"])
    def test_round_trip_with_the_published_prefix(self, networks, network):
        fresh = build_networks()
        prefix = PUBLISHED_PREFIX[network]
        state = {prefix + name: tensor for name, tensor in published_state(networks, network).items()}
        load_weights(fresh, **{network: state})
        loaded = published_state(fresh, network)
        assert all(torch.equal(loaded[name.removeprefix(prefix)], tensor) for name, tensor in state.items())

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"decoder.6.bias": None}, "1 missing (decoder.6.bias)"),
            ({"decoder.7.bias": torch.zeros(3)}, "1 unexpected (decoder.7.bias)"),
            ({"decoder.6.bias": torch.zeros(4)}, "decoder.6.bias [4] instead of [3]"),
            ({"decoder.6.bias": torch.tensor([0, torch.nan, 0])}, "1 not finite (decoder.6.bias)"),
            (
                {"transformers.transformer.3.attention.valid_ind_rolled": torch.arange(148)},
                "transformers.transformer.3.attention.valid_ind_rolled",
            ),
        ],
    )
    def test_what_does_not_fit_is_named_and_nothing_loaded(self, networks, changes, named):
        fresh = build_networks()
        before = {name: tensor.clone() for name, tensor in fresh.generator.state_dict().items()}
        state = changed(dict(published_state(networks, "generator")), **changes)
        with pytest.raises(InputError) as error:
            load_weights(fresh, generator=state)
        assert named in str(error.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.generator.state_dict().items())

    def test_many_wrong_names_are_counted_and_only_the_first_named(self, networks):
        with pytest.raises(InputError, match=r"missing \(.*, \.\.\.\); .* unexpected") as error:
            load_weights(build_networks(), generator=seeded_state_dict("flow_completion"))
        assert len(str(error.value)) < 600

    def test_norm_listed_twice_must_agree(self):
        state = seeded_state_dict("raft")
        state["cnet.layer2.0.norm3.bias"] = state["cnet.layer2.0.norm3.bias"] + 1
        with pytest.raises(InputError, match="twin"):
            load_weights(build_networks(), raft=state)


def test_narrow_networks_run():
    """Widths and depths are arguments: a small model goes through the whole pipeline."""
    small = build_networks(
        raft=dict(encoder_layers=(16, 16, 24, 32, 64), hidden_size=32, corr_layers=(32, 24), flow_layers=(16, 8)),
        flow_completion=dict(channels=16),
        generator=dict(channels=32, hidden=64, depth=2, heads=2, mlp_hidden=98),
    )
    frames = np.random.default_rng(0).integers(0, 255, (3, 128, 136, 3), dtype=np.uint8)
    masks = np.zeros((128, 136), np.uint8)
    masks[50:70, 50:80] = 255
    output = inpaint(small, frames, masks, raft_iterations=2)
    hole = prepare_masks(np.broadcast_to(masks > 0, (3, 128, 136)), (128, 136), 4) > 0
    assert np.array_equal(output[~hole], frames[~hole])
    assert not np.array_equal(output[hole], frames[hole])


LEFT = """
import psutil
from propainter.allocator import release_memory
from propainter.models.networks import seeded_state_dict

def resident():
    release_memory()
    return psutil.Process().memory_info().rss

seeded_state_dict("flow_completion")
before = resident()
seeded_state_dict("generator")
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, which keeps what a thread has freed")
def test_drawing_weights_leaves_nothing_behind():
    said = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(said) < 16 * 2**20  # of 157 MiB of weights; drawn in what the threads allocate it was 100
