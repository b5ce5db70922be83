"""Drawn textures: what synthetic clips show beside photographs."""

import cv2
import numpy as np

SIDE = 512


def noise(random: np.random.Generator, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Draw coloured noise whose power falls with the frequency, as in photographs: uint8 [H, W, 3]."""
    fall = random.uniform(0.8, 2.0)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(height, width)) ** fall
    spectrum = random.normal(size=(3, *amplitude.shape)) + 1j * random.normal(size=(3, *amplitude.shape))
    channels = np.fft.irfft2(spectrum * amplitude, s=(height, width))
    channels = (channels - channels.mean((1, 2), keepdims=True)) / channels.std((1, 2), keepdims=True)
    mixed = np.einsum("ij,jhw->hwi", _colours(random), channels)
    return _levels(random.uniform(60, 190, 3) + random.uniform(25, 60) * mixed)


def bricks(random: np.random.Generator) -> np.ndarray:
    """Draw rows of tiles with joints and grain: uint8 [SIDE, SIDE, 3]."""
    tile_h, tile_w = int(random.integers(16, 64)), int(random.integers(20, 120))
    joint = int(random.integers(2, 6))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    row = rows // tile_h
    shifted = columns + (row % 2) * (tile_w // 2) * random.integers(0, 2)
    is_joint = (rows % tile_h < joint) | (shifted % tile_w < joint)
    tones = random.normal(0, 22, (SIDE // tile_h + 2, 2 * SIDE // tile_w + 3))
    picture = random.uniform(70, 190, 3) + tones[row, shifted // tile_w, None]
    picture[is_joint] = random.uniform(30, 230, 3)
    return _levels(picture + (noise(random) - 128.0) * random.uniform(0.05, 0.4))


def stripes(random: np.random.Generator) -> np.ndarray:
    """Draw waves in several directions: uint8 [SIDE, SIDE, 3]."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    picture = np.full((SIDE, SIDE, 3), random.uniform(90, 160, 3))
    for _ in range(random.integers(1, 4)):
        angle, frequency = random.uniform(0, np.pi), random.uniform(3, 30)
        phase = 2 * np.pi * frequency * (np.cos(angle) * columns + np.sin(angle) * rows) + random.uniform(0, 6.3)
        wave = np.sin(phase) if random.uniform() < 0.5 else np.sign(np.sin(phase))
        picture += wave[..., None] * random.uniform(-45, 45, 3)
    return _levels(picture + (noise(random) - 128.0) * random.uniform(0.1, 0.6))


def shapes(random: np.random.Generator) -> np.ndarray:
    """Draw many discs, boxes and lines over noise, large ones first: uint8 [SIDE, SIDE, 3]."""
    picture = np.ascontiguousarray(noise(random))
    for size in np.sort(random.uniform(4, SIDE / 5, random.integers(30, 120)))[::-1]:
        x, y = (int(value) for value in random.integers(0, SIDE, 2))
        reach, colour = int(size), [int(value) for value in random.integers(0, 256, 3)]
        kind = random.integers(3)
        if kind == 0:
            cv2.circle(picture, (x, y), reach, colour, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(picture, (x - reach, y - reach // 2), (x + reach, y + reach // 2), colour, -1)
        else:
            cv2.line(picture, (x - reach, y), (x + reach, y + reach // 2), colour, 2 + reach // 12, cv2.LINE_AA)
    grain = (noise(random) - 128.0) * random.uniform(0.05, 0.3)
    return _levels(picture + grain)


def _colours(random: np.random.Generator) -> np.ndarray:
    """Return a [3, 3] mixing of channels that is mostly common to all colours, as in photographs."""
    return 0.85 * np.ones((3, 1)) * [1.0, 0.0, 0.0] + random.normal(0, 0.25, (3, 3))


def _levels(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


TEXTURES = (noise, bricks, stripes, shapes)
