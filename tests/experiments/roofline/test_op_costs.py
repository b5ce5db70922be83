"""Costs of operations, counted by hand."""

import pytest
from support.gpu.fake_cuda import ROUND, counted, on_cuda
from torch import Tensor, nn

from experiments.roofline import DeviceError
from experiments.roofline.op_costs import Cost, CostCounter
from experiments.roofline.predict import as_recorded
from variants.precision import tf32_flags


def test_a_convolution():
    def run():
        x, conv = on_cuda(2, 4, 8, 8), nn.Conv2d(4, 6, 3, padding=1, bias=False, device="cuda")
        with tf32_flags(False):
            conv(x)

    counter = counted(run)
    cost = counter.costs["flow"]
    operations, numbers = 2 * 2 * 64 * 6 * 4 * 9, 2 * 4 * 64 + 6 * 4 * 9 + 2 * 6 * 64
    assert cost.flops == {"float32": operations}
    # Its weight is drawn in the same stage: one more operation, which reads and writes it.
    assert cost.launches == 2
    assert cost.moved_bytes == 4 * numbers + 2 * 4 * (6 * 4 * 9)
    assert cost.compute_s == pytest.approx(operations / 1e6)
    assert cost.busy_s == pytest.approx(operations / 1e6 + 2 * 4 * (6 * 4 * 9) / 1e6)
    assert cost.likely_s == pytest.approx(2 * cost.busy_s)
    assert cost.peak_bytes == 4 * numbers and counter.live_bytes == 0


def test_views_cost_nothing_and_copies_their_bytes():
    def run():
        x = on_cuda(10, 10)
        x.view(100).unsqueeze(0)[:, 5:].expand(3, -1)
        x.t().contiguous()

    cost = counted(run).costs["flow"]
    assert (cost.launches, cost.moved_bytes, cost.peak_bytes) == (1, 800, 800)


def test_what_is_let_go_does_not_count_towards_the_peak():
    def run():
        for _ in range(5):
            on_cuda(1000)

    assert counted(run).costs["flow"].peak_bytes == 4000


def test_the_longer_of_work_and_launches():
    cost = Cost(launches=10, compute_s=3.0, traffic_s=1.0, busy_s=3.5)
    assert (cost.bound_s(0.1), cost.binds(0.1)) == (3.5, "operations")
    assert (cost.bound_s(1.0), cost.binds(1.0)) == (10.0, "launches")
    assert Cost(compute_s=1.0, traffic_s=2.0, busy_s=2.0).binds(0.1) == "bytes"


class TestGraph:
    @staticmethod
    def function(x):
        return (x + 1) * 2

    def test_a_graph_is_one_launch_of_all_its_kernels(self):
        counter = CostCounter(ROUND)

        def run():
            with counter.graph():
                self.function(on_cuda(4))

        cost = counted(run, counter).costs["flow"]
        assert (cost.kernels, cost.launches) == (2, 1)

    def test_a_recorded_function_copies_its_arguments_and_results(self):
        counter = CostCounter(ROUND)
        cost = counted(lambda: as_recorded(counter)(self.function)(on_cuda(4)), counter).costs["flow"]
        assert (cost.kernels, cost.launches) == (1 + 2 + 1, 1 + 1 + 1)

    def test_the_host_must_not_wait_inside(self):
        counter = CostCounter(ROUND)
        with pytest.raises(DeviceError, match="not permitted when stream is capturing"):
            counted(lambda: as_recorded(counter)(Tensor.cpu)(on_cuda(4)), counter)


def test_an_operation_repeated_on_the_same_shapes_gives_new_memory():
    def run():
        x = on_cuda(1000)
        return [x + 1 for _ in range(3)]

    assert counted(run).costs["flow"].peak_bytes == 4 * 4000
