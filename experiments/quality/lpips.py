"""LPIPS: the distance between two images in the features of a trained network, with the weights that are available.

`alex`: the lpips package (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018) over AlexNet's ImageNet weights, downloaded once (233 MB). `st_alex`: the shift-tolerant variant of Ghildyal and
Liu ("Shift-tolerant Perceptual Similarity Metric", ECCV 2022); the package stlpips-pytorch (BSD 2-clause) holds all its
weights. The two have different scales: never compare values of one with values of the other.
"""

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propainter import InputError
from propainter.weights import download, find, hub_folder, read_checkpoint
from variants.precision import tf32_flags

log = logging.getLogger(__name__)

ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
ST_PACKAGE = "stlpips_pytorch"
ST_WEIGHTS = "weights/vST0.0/alex_shift_tolerant.pth"


class LpipsModule(nn.Module, ABC):
    """A network whose features are computed once per image and compared pair by pair."""

    @abstractmethod
    def features(self, x: Tensor) -> Any:
        """Return what `distance` compares, from images [N, 3, H, W] in [-1, 1]."""

    @abstractmethod
    def distance(self, a: Any, b: Any) -> Tensor:
        """Return the distance of each image of one batch from its counterpart, by their features: [N], 0 if equal."""


@dataclass(frozen=True)
class Lpips:
    """An LPIPS network and its name, "alex" or "st_alex"."""

    net: str
    module: LpipsModule

    def distances(self, result: np.ndarray, reference: np.ndarray, device: torch.device | None = None) -> list[float]:
        """Compute LPIPS frame by frame in float32, uint8 [T, H, W, 3] twice, H and W at least 32; default CPU."""
        return self.pairwise((result, reference), [(0, 1)], device)[0]

    @torch.inference_mode()
    def pairwise(
        self, stacks: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]], device: torch.device | None = None
    ) -> list[list[float]]:
        """Compute `distances` for several pairs of stacks, given by index; equal images share their features."""
        module = self.module.to(device or "cpu")
        distances: list[list[float]] = [[] for _ in pairs]
        with tf32_flags(False):
            for images in zip(*stacks, strict=True):
                features: list[Any] = []
                for number, image in enumerate(images):
                    twin = next((other for other in range(number) if np.array_equal(images[other], image)), None)
                    features.append(module.features(_as_input(image, device)) if twin is None else features[twin])
                for (a, b), of_pair in zip(pairs, distances, strict=True):
                    of_pair.append(float(module.distance(features[a], features[b])))
        return distances


def _as_input(image: np.ndarray, device: torch.device | None) -> Tensor:
    """Convert uint8 [H, W, 3] to float32 [1, 3, H, W] in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).to(device or "cpu")
    return tensor.permute(2, 0, 1)[None].float() / 127.5 - 1


@cache
def lpips_network() -> tuple[Lpips | None, str | None]:
    """Return the network whose weights are available, AlexNet's first, or None and the reason; cached."""
    try:
        return Lpips("alex", build_lpips(_alexnet_weights())), None
    except InputError as error:
        log.debug("%s", error)
    missing = "no AlexNet weights for LPIPS (not in torch's hub cache, no download)"
    path = st_weights()
    if path is None:
        reason = f"{missing}, and the package stlpips-pytorch is not installed"
        log.warning("LPIPS is left out: %s", reason)
        return None, reason
    log.warning("shift-tolerant LPIPS (st_alex) stands in for LPIPS: %s", missing)
    return Lpips("st_alex", ShiftTolerant(read_checkpoint(path))), None


def _alexnet_weights() -> dict[str, Tensor]:
    path = find(ALEXNET.rsplit("/", 1)[-1], [hub_folder()])
    if path is None:
        log.info("downloading AlexNet's weights for LPIPS")
        path = download(ALEXNET, hub_folder(), check=read_checkpoint)
    return read_checkpoint(path)


def build_lpips(alexnet: dict[str, Tensor]) -> "PublishedLpips":
    """Build LPIPS over an AlexNet (torchvision's state dict) with the linear layers that lpips ships."""
    import lpips  # slow to import

    with warnings.catch_warnings():
        # lpips passes torchvision a deprecated argument.
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    # lpips splits AlexNet's features into slices; the layers keep their indices.
    names = {name: "features." + name.split(".", 1)[1] for name in network.net.state_dict()}
    network.net.load_state_dict({name: alexnet[source] for name, source in names.items()})
    return PublishedLpips(network.eval())


class PublishedLpips(LpipsModule):
    """Compare images with the network of the lpips package, whose features can't be had alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def features(self, x: Tensor) -> Tensor:
        return x

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return self.network(a, b).flatten()


def st_weights() -> Path | None:
    """Find the AlexNet of the installed stlpips-pytorch without importing it; None where it is not installed."""
    spec = find_spec(ST_PACKAGE)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    return find(ST_WEIGHTS, folders)


class ShiftTolerant(LpipsModule):
    """Compute shift-tolerant LPIPS over AlexNet, where a blur and subsampling replace each stride.

    Args:
        state: trained weights, named as in stlpips-pytorch.
    """

    CONVOLUTIONS = ("net.slice1.0", "net.slice2.5", "net.slice3.9", "net.slice4.11", "net.slice5.13")
    PADDINGS = (2, 2, 1, 1, 1)

    shift: Tensor
    scale: Tensor
    blur: Tensor

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("shift", state["scaling_layer.shift"])
        self.register_buffer("scale", state["scaling_layer.scale"])
        self.register_buffer("blur", state["net.slice1.1.filt"][:1])
        self.convolutions = nn.ModuleList(
            _convolution(state[f"{name}.weight"], state[f"{name}.bias"], padding)
            for name, padding in zip(self.CONVOLUTIONS, self.PADDINGS, strict=True)
        )
        self.weights = nn.ParameterList(
            nn.Parameter(state[f"lin{number}.model.1.weight"], requires_grad=False) for number in range(5)
        )

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the distances [N]; see `LpipsModule`."""
        distance = a[0].new_zeros(len(a[0]))
        for weight, x, y in zip(self.weights, a, b, strict=True):
            difference = (_unit(x) - _unit(y)).square()
            distance += F.conv2d(difference, weight).mean(dim=(1, 2, 3))
        return distance

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the output [N, C, h, w] of each of the five convolutions, after its ReLU."""
        x = (x - self.shift) / self.scale
        features = []
        for number, convolution in enumerate(self.convolutions):
            if number in (1, 2):
                x = self._halved(F.max_pool2d(x, 3, stride=1))
            x = convolution(x)
            if number == 0:
                x = self._halved(x)
            x = F.relu(x)
            features.append(x)
        return features

    def _halved(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(
            F.pad(x, (2, 2, 2, 2), "reflect"), self.blur.repeat(channels, 1, 1, 1), stride=2, groups=channels
        )


def _convolution(weight: Tensor, bias: Tensor, padding: int) -> nn.Conv2d:
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=padding)
    convolution.weight, convolution.bias = (nn.Parameter(x, requires_grad=False) for x in (weight, bias))
    return convolution


def _unit(features: Tensor) -> Tensor:
    """Scale each pixel's features to length 1: [N, C, h, w]."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
