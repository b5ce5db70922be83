"""Window attention: the published index, and the choice of masked windows."""

import torch

from propainter.models.attention import WindowPlan


def test_window_index_is_the_published(networks, golden):
    for block in networks.generator.transformers.transformer:
        assert block.attention.valid_ind_rolled.tolist() == golden.json("valid_ind_rolled")


def test_window_plan_counts_any_local_frame():
    mask = torch.zeros(1, 2, 11, 12)
    mask[0, 1, 10, 11] = 1
    masked = WindowPlan(mask).masked_windows()
    assert masked.tolist() == [[False] * 5 + [True]]
