"""Random masks of a clip, as in the published training: a free-form shape, still or moving.

Source: the published recipe (docs/training.md). A closed curve through 6 to 8 corners takes a third to all of each side
of the frame. It is still in half of the clips, else it moves by up to 3 pixels a frame with random acceleration.
"""

import cv2
import numpy as np
from scipy.interpolate import splev, splprep

CORNERS = (6, 8)
STILL = 0.5
MAX_SPEED_PX = 3.0
CURVE_POINTS = 96


def closed_curve(random: np.random.Generator) -> np.ndarray:
    """Draw a closed smooth curve inside the unit square: [N, 2], x and y."""
    count = random.integers(CORNERS[0], CORNERS[1] + 1)
    # Corners in the order of their angle, so that the curve does not cross itself.
    angles = np.sort((np.arange(count) + random.uniform(-0.35, 0.35, count)) * 2 * np.pi / count)
    radii = random.uniform(0.45, 1.0, count)
    corners = np.stack([radii * np.cos(angles), radii * np.sin(angles)])
    spline, _ = splprep(np.concatenate([corners, corners[:, :1]], axis=1), s=0, per=True)
    curve = np.stack(splev(np.linspace(0, 1, CURVE_POINTS, endpoint=False), spline), axis=1)
    low, high = curve.min(0), curve.max(0)
    return (curve - low) / (high - low)


def filled_curve(curve: np.ndarray, height: int, width: int, smooth: bool = False) -> np.ndarray:
    """Fill a curve [N, 2] in pixels: uint8 [height, width], 0 or 255; `smooth` gives its edge values in between."""
    canvas = np.zeros((height, width), np.uint8)
    shift = 4  # cv2's fixed point: 1/16 of a pixel
    points = np.round((curve - 0.5) * 2**shift).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255, cv2.LINE_AA if smooth else cv2.LINE_8, shift)
    return canvas


def speeds(random: np.random.Generator, count: int, most: float = MAX_SPEED_PX) -> np.ndarray:
    """Draw velocities with random acceleration: [count, 2], each component at most `most` pixels a frame."""
    velocity = random.uniform(-most, most, 2)
    drawn = []
    for _ in range(count):
        velocity = np.clip(velocity + random.normal(0, most / 10, 2), -most, most)
        drawn.append(velocity)
    return np.array(drawn).reshape(count, 2)


def random_masks(
    random: np.random.Generator,
    num_frames: int,
    height: int,
    width: int,
    sides: tuple[float, float] = (1 / 3, 1.0),
    still: float = STILL,
) -> np.ndarray:
    """Draw the masks of a clip.

    Args:
        random: the source of randomness.
        num_frames: T.
        height, width: of the frame, in pixels.
        sides: least and most of the shape's sides, as fractions of the frame's (published: a third to all).
        still: probability of a shape that does not move (published: 0.5).

    Returns:
        uint8 [T, H, W], 1 in the hole.
    """
    rows, columns = (random.uniform(*sides) * side for side in (height, width))
    curve = closed_curve(random) * (columns, rows)
    position = np.array([random.uniform(0, width - columns), random.uniform(0, height - rows)])
    if random.uniform() < still:
        return np.repeat(filled_curve(curve + position, height, width)[None] // 255, num_frames, axis=0)
    masks, turned = [], np.ones(2)
    limits = np.array([width - columns, height - rows])
    for step in [np.zeros(2), *speeds(random, num_frames - 1)]:
        # A shape at the border turns back, and goes on so: it stays in the picture.
        moved = position + turned * step
        turned = np.where((moved < 0) | (moved > limits), -turned, turned)
        position = (position + turned * step).clip(0, limits)
        masks.append(filled_curve(curve + position, height, width) // 255)
    return np.stack(masks)
