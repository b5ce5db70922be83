"""Kernels, transfers and bytes of operations on a CUDA device, counted by hand."""

import pytest
import torch
from support.gpu.fake_cuda import counted, on_cuda
from torch import nn

from experiments.roofline import kernels as module
from experiments.roofline.fake_cuda import fake_cuda_tensors
from experiments.roofline.kernels import images_at_once, moved_bytes
from propainter.models.lazy_torchvision import deform_conv2d
from variants.kernels import corr_op
from variants.precision import tf32_flags

HALF, LAST = torch.float16, torch.channels_last


def cost_of(run):
    return counted(run).costs["flow"]


def test_picked_values_are_read_not_the_whole_tensor():
    table_of_rows, index, output = torch.empty(1000, 4), torch.empty(2, dtype=torch.int64), torch.empty(2, 4)
    assert moved_bytes(torch.ops.aten.index_select, [table_of_rows, index], [output]) == 2 * 32 + 16


def test_a_product_of_tokens_is_one_kernel_and_its_views_are_none():
    cost = cost_of(lambda: on_cuda(2, 5, 8) @ on_cuda(8, 4))
    assert (cost.kernels, cost.moved_bytes) == (1, 4 * (10 * 8 + 8 * 4 + 10 * 4))


class TestConvolution:
    x, weight, result = 2 * 2 * 4 * 64, 2 * 6 * 4 * 9, 2 * 2 * 6 * 64  # bytes in half precision

    @staticmethod
    def convolved(x_last=False, weight_last=False, dtype=HALF, bias=False, groups=1):
        x, weight = on_cuda(2, 4, 8, 8, dtype=dtype), on_cuda(6 if groups == 1 else 4, 4 // groups, 3, 3, dtype=dtype)
        x = x if not x_last else torch.empty_like(x, memory_format=LAST)
        weight = weight if not weight_last else torch.empty_like(weight, memory_format=LAST)
        return nn.functional.conv2d(x, weight, on_cuda(6, dtype=dtype) if bias else None, padding=1, groups=groups)

    def test_in_half_precision_cudnn_converts_input_weight_and_output(self):
        cost = cost_of(self.convolved)
        assert (cost.kernels, cost.layout_kernels) == (4, 3)
        assert cost.moved_bytes == 3 * (self.x + self.weight + self.result)

    def test_in_channels_last_nothing_is_converted(self):
        def run():
            assert self.convolved(x_last=True, weight_last=True).is_contiguous(memory_format=LAST)

        cost = cost_of(run)
        assert (cost.kernels, cost.layout_kernels) == (1, 0)
        assert cost.moved_bytes == self.x + self.weight + self.result

    def test_one_of_both_in_channels_last_takes_the_other_along(self):
        def run(x_last, weight_last):
            assert self.convolved(x_last, weight_last).is_contiguous(memory_format=LAST)

        for_weight, for_input = cost_of(lambda: run(True, False)), cost_of(lambda: run(False, True))
        assert for_weight.layout_kernels == for_input.layout_kernels == 1
        assert for_weight.moved_bytes == self.x + 3 * self.weight + self.result
        assert for_input.moved_bytes == 3 * self.x + self.weight + self.result

    def test_float32_and_depthwise_stay_in_nchw_and_tf32_does_not(self):
        for allowed in (False, True):
            with tf32_flags(allowed):
                assert cost_of(lambda: self.convolved(dtype=torch.float32)).layout_kernels == 3 * allowed
        assert cost_of(lambda: self.convolved(groups=4)).layout_kernels == 0

    def test_the_bias_is_added_by_a_kernel_of_its_own(self):
        cost = cost_of(lambda: self.convolved(x_last=True, weight_last=True, bias=True))
        assert cost.kernels == cost.launches == 2
        assert cost.moved_bytes == self.x + self.weight + 3 * self.result + 2 * 6


class TestDeformableConvolution:
    @staticmethod
    def convolved(batch=2, x_last=False):
        x = torch.empty_like(on_cuda(batch, 8, 8, 8), memory_format=LAST if x_last else torch.contiguous_format)
        offset, mask = on_cuda(batch, 2 * 9, 8, 8), on_cuda(batch, 9, 8, 8)
        return deform_conv2d(x, offset, on_cuda(6, 4, 3, 3), on_cuda(6), padding=1, mask=mask)

    def test_samples_and_products_by_group_and_buffers(self):
        cost = cost_of(self.convolved)
        # Three fills, sampling, a product for each of two groups, a copy and the bias.
        assert (cost.kernels, cost.layout_kernels) == (8, 0)
        x, offset, mask, weight, result, columns = (
            4 * n for n in (2 * 8 * 64, 2 * 18 * 64, 2 * 9 * 64, 6 * 4 * 9, 2 * 6 * 64, 2 * 8 * 9 * 64)
        )
        sampling, products = x + offset + mask + columns, columns + weight + 2 * result
        assert cost.moved_bytes == 2 * result + columns + sampling + products + 2 * result + 2 * result + 4 * 6

    def test_channels_last_is_copied_first(self):
        assert cost_of(lambda: self.convolved(x_last=True)).layout_kernels == 1

    def test_a_batch_is_split_into_equal_blocks_of_at_most_32(self):
        assert [images_at_once(count) for count in (1, 32, 33, 37, 64)] == [1, 32, 11, 1, 32]
        assert cost_of(lambda: self.convolved(33)).kernels == 3 + 3 * 3 + 2


class TestWaits:
    @pytest.mark.parametrize(
        "run",
        [
            lambda x: x.cpu(),
            lambda x: x.to("cpu", non_blocking=True),
            lambda x: torch.tensor([1.0, 2.0], device="cuda"),
            lambda x: torch.ones(2).to("cuda", non_blocking=True),
            lambda x: torch.ones(2, pin_memory=True).to("cuda"),
            lambda x: torch.ones(2).pin_memory().double().to("cuda", non_blocking=True),
            lambda x: torch.ones(2).pin_memory().to("cuda", torch.float64, non_blocking=True),
            lambda x: x[:, [0, 2]],
            lambda x: x.copy_(torch.zeros(4, 4)),
        ],
    )
    def test_the_host_waits_for_copies(self, run):
        cost = cost_of(lambda: run(on_cuda(4, 4)))
        assert (cost.waits, cost.copies) == (1, 1)
        assert cost.launches == cost.kernels + 1

    @pytest.mark.parametrize(
        "run",
        [
            lambda x: torch.ones(2, pin_memory=True).to("cuda", non_blocking=True),
            lambda x: torch.ones(4, 4).pin_memory()[:2].to("cuda", non_blocking=True),
            lambda x: torch.empty(4, 4, pin_memory=True).copy_(x, non_blocking=True),
        ],
    )
    def test_the_host_does_not_wait_for_asynchronous_copies_of_pinned_memory(self, run):
        cost = cost_of(lambda: run(on_cuda(4, 4)))
        assert (cost.waits, cost.copies, cost.kernels) == (0, 1, 0)

    def test_the_host_waits_for_values(self):
        def run():
            known = torch.tensor([True, False]).to("cuda")
            known.any().item()
            known.nonzero()
            assert on_cuda(2, 3)[known].shape == (1, 3)

        assert cost_of(run).waits == 1 + 3

    def test_kernels_alone_do_not_make_the_host_wait(self):
        cost = cost_of(lambda: on_cuda(4, 4)[:, torch.arange(2, device="cuda")] + 1)
        assert (cost.waits, cost.copies, cost.kernels) == (0, 0, 3)

    def test_bytes_copied_are_those_of_the_copy(self):
        def run():
            torch.ones(10).to("cuda")
            on_cuda(10).half().cpu()

        assert cost_of(run).copied_bytes == 40 + 20


def test_an_operation_states_the_bytes_that_it_moves(monkeypatch):
    formula = {"aten::mm": lambda a, b, out_val: 7 * a.shape[0] + out_val.shape[1]}
    monkeypatch.setattr(module, "BYTES", formula)
    assert cost_of(lambda: on_cuda(2, 3) @ on_cuda(3, 4)).moved_bytes == 7 * 2 + 4


def test_a_lookup_of_windows_reads_sectors_at_most_the_volume():
    def run():
        volumes = [on_cuda(4096, 1, side, side, dtype=HALF) for side in (64, 8)]
        corr_op.windows(volumes, 1, on_cuda(1, 2, 64, 64))

    cost = cost_of(run)
    assert cost.kernels == 1
    assert cost.moved_bytes == 4096 * (4 * (4 * 2 + 30) + 64 * 2 + 2 * 4 + 18 * 2)


def test_copies_between_layouts_are_counted():
    def run():
        x = on_cuda(2, 3, 4, 4)
        x.contiguous(memory_format=LAST).clone().contiguous()

    assert cost_of(run).layout_kernels == 2


def test_pinned_memory_is_known():
    with fake_cuda_tensors():
        host = torch.empty(4, 2, pin_memory=True)
        assert host.is_pinned() and host[1:].is_pinned()
        assert not host.clone().is_pinned() and not torch.empty(2).is_pinned()
        assert not torch.ones(2).is_pinned() and torch.ones(2).pin_memory().is_pinned()
