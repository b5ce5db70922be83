"""LPIPS: alike is 0, more error is more, and which network stands in for which."""

import logging

import numpy as np
import pytest
import torch
import torchvision

from experiments.quality import lpips
from experiments.quality.lpips import Lpips, ShiftTolerant
from propainter.weights import read_checkpoint

needs_st_weights = pytest.mark.skipif(
    lpips.st_weights() is None, reason="needs the package stlpips-pytorch (pip install -e '.[dev]')"
)


def waves(shift: float = 0.0) -> np.ndarray:
    """A picture of coloured waves, uint8 [1, 96, 128, 3], moved by some pixels."""
    y, x = np.mgrid[:96, :128]
    colours = [np.sin((x + shift) / 5) + np.cos(y / 7), np.sin((x + shift + y) / 11), np.cos((x + shift - 2 * y) / 9)]
    return np.round(127.5 + 60 * np.stack(colours, axis=-1)).clip(0, 255).astype(np.uint8)[None]


def noisy(picture: np.ndarray, size: float) -> np.ndarray:
    noise = size * np.random.default_rng(0).standard_normal(picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["alex", pytest.param("st_alex", marks=needs_st_weights)])
def network(request):
    """LPIPS over random AlexNet weights, and shift-tolerant LPIPS over its trained ones."""
    if request.param == "st_alex":
        return Lpips("st_alex", ShiftTolerant(read_checkpoint(lpips.st_weights())))
    torch.manual_seed(0)
    return Lpips("alex", lpips.build_lpips(torchvision.models.alexnet(weights=None).state_dict()))


def test_it_grows_with_the_error_and_is_zero_without(network):
    got = [network.distances(noisy(waves(), size), waves())[0] for size in (0, 5, 20, 80)]
    assert got[0] == 0 < got[1] < got[2] < got[3]


def test_it_is_symmetric_and_by_frame(network):
    first, second = np.concatenate([waves(), noisy(waves(), 20)]), np.concatenate([waves(), waves()])
    forth, back = network.distances(first, second), network.distances(second, first)
    assert forth == pytest.approx(back, rel=1e-6)
    assert forth[0] == 0 < forth[1]


def test_many_pairs_give_what_each_gives_alone_and_each_picture_goes_through_once(network, monkeypatch):
    stacks = waves(), noisy(waves(), 20), noisy(waves(), 40), waves()
    pairs = [(0, 1), (0, 2), (1, 2), (0, 3)]
    alone = [network.distances(stacks[a], stacks[b]) for a, b in pairs]
    seen, features = [], network.module.features
    monkeypatch.setattr(network.module, "features", lambda x: seen.append(x) or features(x))
    assert network.pairwise(stacks, pairs) == alone
    assert len(seen) == 3  # the fourth is the first


def test_alex_gives_what_the_package_gives():
    torch.manual_seed(0)
    network = Lpips("alex", lpips.build_lpips(torchvision.models.alexnet(weights=None).state_dict()))
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (noisy(waves(), 20), waves()))
    with torch.inference_mode():
        wanted = float(network.module.network(a, b))
    assert network.distances(noisy(waves(), 20), waves()) == pytest.approx([wanted], rel=1e-6)
    assert wanted > 0


@needs_st_weights
def test_shift_tolerant_figures_are_those_of_the_package():
    """The figures are what stlpips_pytorch 0.0.2 itself gives for these pictures."""
    network = Lpips("st_alex", ShiftTolerant(read_checkpoint(lpips.st_weights())))
    assert network.distances(noisy(waves(), 20), waves()) == pytest.approx([0.322576], rel=1e-4)
    assert network.distances(255 - waves(), waves()) == pytest.approx([0.600646], rel=1e-4)
    assert network.distances(waves(shift=1), waves()) == pytest.approx([0.00395978], rel=1e-3)


@pytest.fixture
def no_alexnet(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(lpips, "ALEXNET", "http://127.0.0.1:9/alexnet.pth")
    lpips.lpips_network.cache_clear()
    yield
    lpips.lpips_network.cache_clear()


def test_without_any_weights_it_is_left_out_with_the_reason(no_alexnet, monkeypatch):
    monkeypatch.setattr(lpips, "ST_PACKAGE", "no_such_package")
    network, reason = lpips.lpips_network()
    assert network is None
    assert reason == (
        "no AlexNet weights for LPIPS (not in torch's hub cache, no download), and the package stlpips-pytorch is not "
        "installed"
    )


@needs_st_weights
def test_without_alexnet_the_shift_tolerant_one_stands_in(no_alexnet, caplog):
    network, reason = lpips.lpips_network()
    assert (network.net, reason) == ("st_alex", None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "shift-tolerant LPIPS (st_alex) stands in" in caplog.text


def test_alexnet_from_the_hub_cache_comes_first(no_alexnet, tmp_path):
    torch.manual_seed(0)
    state = torchvision.models.alexnet(weights=None).state_dict()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(
        {name: tensor for name, tensor in state.items() if name.startswith("features")},
        tmp_path / "hub" / "checkpoints" / "alexnet.pth",
    )
    network, reason = lpips.lpips_network()
    assert (network.net, reason) == ("alex", None)
    assert network.distances(waves(), waves()) == [0]
