"""The networks together: names and sizes of the released ones, loading, seeded weights."""

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.command_line import ROOT

from propainter import InputError, build_networks, inpaint, load_weights, published_state, seeded_state_dict
from propainter.inference.preparation import prepare_masks
from propainter.models.networks import NETWORKS

PUBLISHED_PREFIX = {"raft": "module.", "flow_completion": "", "generator": ""}


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


class TestArchitectures:
    def test_small_has_no_raft_and_few_parameters(self):
        small = build_networks("small")
        assert small.raft is None
        assert small.names == ("flow_completion", "generator")
        assert sum(p.numel() for name in small.names for p in getattr(small, name).parameters()) < 4e6
        assert small.device.type == "cpu"
        assert small.to("meta").device.type == "meta"

    def test_published_is_the_default(self, networks):
        assert networks.architecture == "published"
        assert networks.names == NETWORKS

    def test_arguments_override_the_architectures(self):
        small = build_networks("small", generator={"depth": 1})
        state = published_state(small, "generator")
        assert small.architecture == "small"
        assert not any(name.startswith("transformers.transformer.1.") for name in state)
        assert (
            state["encoder.layers.0.weight"].shape
            == seeded_state_dict("generator", architecture="small")["encoder.layers.0.weight"].shape
        )

    def test_seeded_weights_fit(self):
        small = build_networks("small")
        states = {name: seeded_state_dict(name, architecture="small") for name in small.names}
        load_weights(small, **states)
        assert torch.equal(small.generator.decoder[6].weight, states["generator"]["decoder.6.weight"])

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: build_networks("tiny"), "unknown architecture 'tiny'; give one of published, small"),
            (lambda: build_networks("small", raft={}), "arguments are given for raft, which the small architecture"),
            (lambda: seeded_state_dict("raft", architecture="small"), "the small architecture has no raft network"),
            (lambda: seeded_state_dict("rift", architecture="small"), "unknown network 'rift'; give one of flow_comp"),
            (lambda: seeded_state_dict("raft", architecture="tiny"), "unknown architecture 'tiny'"),
            (lambda: published_state(build_networks("small"), "raft"), "the small architecture has no raft network"),
            (
                lambda: load_weights(build_networks("small"), raft={"x": torch.zeros(1)}),
                "the small architecture has no raft network",
            ),
            (
                lambda: load_weights(build_networks("small"), generator=seeded_state_dict("generator")),
                "not weights of the small architecture's generator network: .* instead of",
            ),
        ],
    )
    def test_refused(self, call, message):
        with pytest.raises(InputError, match=message):
            call()


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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, which keeps what a thread has freed")
def test_drawing_weights_leaves_nothing_behind():
    output = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(output) < 16 * 2**20  # of 157 MiB of weights; drawn in what the threads allocate it was 100
