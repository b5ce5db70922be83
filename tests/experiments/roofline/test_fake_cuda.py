"""Fake CUDA tensors take the dtypes and kernels of a GPU, and no others."""

import numpy as np
import pytest
import torch
from support.gpu.fake_cuda import counted, on_cuda
from torch import Tensor, nn

from experiments.roofline import DeviceError
from experiments.roofline.fake_cuda import fake_cuda_tensors
from propainter import InputError


def test_half_precision_by_autocast_counts_as_half():
    def run():
        a = on_cuda(8, 8)
        with torch.autocast("cuda", dtype=torch.float16):
            a @ a

    assert counted(run).costs["flow"].flops == {"float16": 2 * 8**3}


def test_a_shape_that_depends_on_unknown_values_is_refused():
    with fake_cuda_tensors(), pytest.raises(InputError, match="do not follow from the masks"):
        on_cuda(4, 4).nonzero()


def test_values_made_from_host_tensors_are_known():
    with fake_cuda_tensors():
        mask = torch.from_numpy(np.array([0, 1, 1])).to("cuda")
        assert (mask * 2).nonzero().shape == (2, 1)
        assert int(mask.sum()) == 2
        assert mask.cpu().numpy().tolist() == [0, 1, 1]
        assert on_cuda(2).cpu().numpy().tolist() == [0, 0]


class TestGridSample:
    """torch takes cuDNN's grid sampler for these, and cuDNN takes no more than 65,535 images."""

    @staticmethod
    def sample(count, channels=1, dtype=torch.float32, **options):
        x, grid = on_cuda(count, channels, 4, 4, dtype=dtype), on_cuda(count, 9, 9, 2, dtype=dtype)
        return nn.functional.grid_sample(x, grid, **{"align_corners": True, **options})

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_cudnn_takes_65535_images_and_no_more(self, dtype):
        with fake_cuda_tensors():
            assert self.sample(65_535, dtype=dtype).shape == (65_535, 1, 9, 9)
            with pytest.raises(DeviceError, match="CUDNN_STATUS_NOT_SUPPORTED"):
                self.sample(65_536, dtype=dtype)

    def test_it_is_refused_while_it_is_counted(self):
        with pytest.raises(DeviceError, match="CUDNN_STATUS_NOT_SUPPORTED"):
            counted(lambda: self.sample(65_536))

    @pytest.mark.parametrize(
        "options",
        [
            {"align_corners": False},
            {"padding_mode": "border"},
            {"mode": "nearest"},
            {"dtype": torch.bfloat16},
            {"channels": 1025},
        ],
    )
    def test_torchs_own_kernel_takes_more(self, options):
        with fake_cuda_tensors():
            assert self.sample(65_536, **options).shape[0] == 65_536

    def test_without_cudnn_torchs_own_kernel_takes_more(self):
        with fake_cuda_tensors(), torch.backends.cudnn.flags(enabled=False):
            assert self.sample(65_536).shape[0] == 65_536


def test_a_tensor_on_the_device_is_no_array():
    with fake_cuda_tensors():
        mask = torch.from_numpy(np.array([0, 1, 1])).to("cuda")
        for convert in (Tensor.numpy, np.asarray):
            with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
                convert(mask)
        assert mask.numpy(force=True).tolist() == mask.tolist() == [0, 1, 1]


def test_known_values_are_sampled():
    with fake_cuda_tensors():
        mask, grid = (torch.from_numpy(x).to("cuda") for x in (np.ones((1, 1, 4, 4)), np.zeros((1, 2, 2, 2))))
        assert (nn.functional.grid_sample(mask, grid, align_corners=True) == 1).all().item()


def test_booleans_that_no_mask_decides_are_refused():
    with fake_cuda_tensors(), pytest.raises(InputError, match="an array of booleans needs values"):
        (torch.empty(2, 3, device="cuda") > 0).cpu().numpy()
