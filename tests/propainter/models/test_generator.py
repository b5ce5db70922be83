"""The generator equals the golden data, wrong shapes are refused."""

import pytest
import torch
from support.golden import TOLERANCE, difference, thinned


@pytest.mark.slow
def test_generator(networks, golden):
    data, expected = golden.tensors("propagation"), golden.tensors("generator")
    count, masks = int(expected["num_local_frames"]), data["masks"]
    frames = data["frames"] / 127 * (1 - masks) + data["prop_frames"] / 127 * masks
    flows = data["flow_f"][:, : count - 1], data["flow_b"][:, : count - 1]
    output = networks.generator(frames, flows, masks, data["updated_masks"], count)
    assert difference(thinned(output), expected["output"]) < TOLERANCE


@pytest.mark.slow
def test_generator_plans_windows_from_the_original_mask(networks, golden):
    data = golden.tensors("generator_filled")
    flows = data["flow_f"], data["flow_b"]
    count = int(data["num_local_frames"])
    output = networks.generator(data["frames"] / 127, flows, data["masks"], data["updated_masks"], count)
    assert difference(thinned(output), data["output"]) < TOLERANCE


def test_generator_with_flows_of_another_length(networks):
    flow = torch.zeros(1, 3, 2, 64, 64)
    mask = torch.zeros(1, 4, 1, 64, 64)
    with pytest.raises(ValueError, match="exactly 2 flows"):
        networks.generator(torch.zeros(1, 4, 3, 64, 64), (flow, flow), mask, mask, 3)
