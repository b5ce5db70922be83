"""Window attention: the published index, and the choice of masked windows."""

import pytest
import torch
import torch.nn.functional as F

from propainter import InputError
from propainter.models.attention import (
    FixedWindowAttention,
    PublishedWindowAttention,
    SparseWindowAttention,
    WindowPlan,
    manual_attention,
)


def test_window_index_is_the_published(networks, golden):
    for block in networks.generator.transformers.transformer:
        assert block.attention.valid_ind_rolled.tolist() == golden.json("valid_ind_rolled")


def test_window_plan_counts_any_local_frame():
    mask = torch.zeros(1, 2, 11, 12)
    mask[0, 1, 10, 11] = 1
    masked = WindowPlan(mask).masked_windows()
    assert masked.tolist() == [[False] * 5 + [True]]


class TestFixed:
    """Shapes that do not depend on the hole, and the published result."""

    @pytest.fixture
    def layers(self):
        torch.manual_seed(0)
        return SparseWindowAttention(32, 2, (2, 3), 2)

    def mask(self, *windows):
        """A hole in these windows of three by three, of two clips with two frames: the second clip's is empty."""
        mask = torch.zeros(2, 2, 6, 8)
        for row, column in windows:
            mask[0, 1, 2 * row, 3 * column] = 1
        return mask

    @pytest.mark.parametrize("count", [None, 9, 4, 3])
    @pytest.mark.parametrize("windows", [[], [(0, 0)], [(0, 0), (1, 2), (2, 1)]], ids=len)
    @pytest.mark.parametrize("kernel", [manual_attention, F.scaled_dot_product_attention])
    def test_equals_the_published(self, layers, count, windows, kernel):
        plan = WindowPlan(self.mask(*windows), (2, 3))
        tokens = torch.randn(2, 5, 6, 8, 32)
        for key_frames in (slice(0, None, 2), slice(1, None, 2)):
            expected = PublishedWindowAttention(kernel)(layers, tokens, plan, key_frames)
            fixed = FixedWindowAttention(kernel, count)
            assert torch.allclose(fixed(layers, tokens, plan, key_frames), expected, atol=1e-6)
            assert torch.allclose(fixed(layers, tokens, plan.fixed(count), key_frames), expected, atol=1e-6)

    def test_a_plan_has_the_stated_number_of_windows_masked_ones_first(self):
        plan = WindowPlan(self.mask((0, 1), (2, 2)), (2, 3)).fixed(4)
        assert plan.chosen.tolist() == [[1, 8, 0, 2], [0, 1, 2, 3]]
        assert plan.valid.tolist() == [[True, True, False, False], [False] * 4]

    def test_fewer_than_the_masked_windows_are_refused(self, layers):
        plan = WindowPlan(self.mask((0, 0), (1, 1)), (2, 3))
        with pytest.raises(InputError, match="attention.windows is 1, and 2 windows are masked; give as many, or null"):
            FixedWindowAttention(count=1)(layers, torch.randn(2, 3, 6, 8, 32), plan, slice(None))

    def test_is_exported_without_the_holes_values(self, layers):
        class Attend(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = layers

            def forward(self, tokens, mask):
                plan = WindowPlan(mask, (2, 3)).fixed(4)
                return FixedWindowAttention()(self.layers, tokens, plan, slice(0, None, 2))

        tokens = torch.randn(2, 5, 6, 8, 32)
        program = torch.export.export(Attend(), (tokens, self.mask((0, 0)))).module()
        for windows in ([], [(0, 0), (1, 2), (2, 1)]):
            expected = PublishedWindowAttention()(
                layers, tokens, WindowPlan(self.mask(*windows), (2, 3)), slice(0, None, 2)
            )
            assert torch.allclose(program(tokens, self.mask(*windows)), expected, atol=1e-6)
