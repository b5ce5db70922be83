"""Costs counted on fake CUDA tensors, at round ceilings."""

from types import SimpleNamespace

import torch

from experiments.measure.flops import counting
from experiments.roofline.fake_cuda import fake_cuda_tensors
from experiments.roofline.op_costs import Ceilings, CostCounter
from propainter import Observer

ROUND = Ceilings(
    "round",
    {"float32": 1e6, "tf32": 1e7, "float16": 1e7},
    bytes_per_s=1e6,
    launch_s=1e-3,
    reached={"float32": 0.5, "tf32": 0.5, "float16": 0.5, "bytes": 0.5},
)


def counted(run, counter=None):
    counter, pipeline = counter or CostCounter(ROUND), SimpleNamespace(observer=Observer())
    with fake_cuda_tensors(), counting(pipeline, counter), pipeline.observer.stage("flow"):
        run()
    return counter


def on_cuda(*shape, dtype=torch.float32):
    return torch.empty(*shape, device="cuda", dtype=dtype)
