"""Synthetic clips: layers of pictures in motion, whose flow and whose background behind the hole are known exactly.

A clip has a background, zero to two layers before it that move otherwise (parallax), and often an object that is to be
removed. The camera moves, turns and zooms smoothly, in perspective; light changes. Flow follows from the layers' own
transformations. Everything is a function of the seed.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from propainter.training.masks import closed_curve, filled_curve, random_masks
from propainter.training.photographs import photographs
from propainter.training.textures import TEXTURES


@dataclass(frozen=True)
class SyntheticClip:
    """Hold a clip with its truth.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB, with the object that is to be removed.
        truth: uint8 [T, H, W, 3], without it.
        masks: uint8 [T, H, W], 1 in the hole.
        flow_f: float32 [T-1, 2, H, W] in pixels, flow of the truth from each frame to the next.
        flow_b: float32 [T-1, 2, H, W], from each frame's successor back to it.
    """

    frames: np.ndarray
    truth: np.ndarray
    masks: np.ndarray
    flow_f: np.ndarray
    flow_b: np.ndarray


@dataclass(frozen=True)
class ClipStyle:
    """Say how a synthetic clip may look; each pair is a range.

    Attributes:
        photograph: probability of a photograph, else a drawn texture.
        speed: of the camera, as a fraction of the width a frame; drawn by its logarithm.
        own_speed: largest speed of a layer or an object by itself, as a fraction of the width a frame.
        layers: number of layers before the background.
        object: probability that an object is painted where the hole is.
        sides: of the hole, as fractions of the frame's sides.
        shake: largest jump of the camera between frames, in pixels.
        light: largest change of brightness over the clip, as a factor from 1.
    """

    photograph: float = 0.7
    speed: tuple[float, float] = (0.004, 0.06)
    own_speed: float = 0.025
    layers: tuple[int, int] = (0, 2)
    object: float = 0.75
    sides: tuple[float, float] = (0.2, 0.6)
    shake: float = 0.4
    light: float = 0.06


@dataclass
class Layer:
    """Hold a picture, and where each frame sees it.

    Attributes:
        picture: uint8 [h, w, 3].
        matrices: float64 [T, 3, 3], from a pixel of the frame (x, y, 1) to one of the picture.
        alpha: uint8 [h, w], 255 where the layer covers what is behind it; None everywhere.
    """

    picture: np.ndarray
    matrices: np.ndarray
    alpha: np.ndarray | None = None
    inverses: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.inverses = np.linalg.inv(self.matrices)

    def seen(self, t: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what frame t sees: float32 [H, W, 3], and the cover as float32 [H, W, 1] in 0 to 1 (None: all)."""
        height, width = size
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        matrix, border = self.matrices[t], cv2.BORDER_REFLECT_101
        colours = cv2.warpPerspective(self.picture, matrix, (width, height), flags=how, borderMode=border)
        if self.alpha is None:
            return colours.astype(np.float32), None
        cover = cv2.warpPerspective(self.alpha, matrix, (width, height), flags=how, borderMode=cv2.BORDER_CONSTANT)
        return colours.astype(np.float32), cover[..., None].astype(np.float32) / 255

    def flow(self, start: int, stop: int, points: np.ndarray) -> np.ndarray:
        """Return the layer's flow from frame start to frame stop at points [H, W, 3]: float64 [H, W, 2], in pixels."""
        moved = points @ (self.inverses[stop] @ self.matrices[start]).T
        return moved[..., :2] / moved[..., 2:] - points[..., :2]


def synthetic_clip(
    seed: int,
    num_frames: int = 12,
    height: int = 128,
    width: int = 160,
    split: str = "train",
    style: ClipStyle | None = None,
    folder: str | None = None,
) -> SyntheticClip:
    """Draw a clip: every call with the same arguments gives the same.

    Args:
        seed: another seed gives another clip.
        num_frames: T, at least 1.
        height, width: in pixels.
        split: "train", or "held_out" for pictures that training does not use.
        style: how clips may look; None for the default.
        folder: further photographs for training; see `photographs`.

    Raises:
        InputError: see `photographs`.
    """
    random = np.random.default_rng([seed, num_frames, height, width, split == "held_out"])
    drawer = _Drawer(random, num_frames, height, width, style or ClipStyle(), photographs(split, folder))
    return drawer.clip()


class _Drawer:
    """Draw one clip."""

    def __init__(
        self,
        random: np.random.Generator,
        num_frames: int,
        height: int,
        width: int,
        style: ClipStyle,
        pictures: list[np.ndarray],
    ) -> None:
        self.random, self.num_frames, self.style, self.pictures = random, num_frames, style, pictures
        self.size = height, width
        rows, columns = np.mgrid[:height, :width].astype(np.float64)
        self.points = np.stack([columns, rows, np.ones_like(rows)], axis=-1)

    def clip(self) -> SyntheticClip:
        camera = self._camera()
        layers = [self._background(camera)]
        for depth in range(self.random.integers(self.style.layers[0], self.style.layers[1] + 1)):
            layers.append(self._before(camera, parallax=1.3 + 0.5 * depth, sides=(0.15, 0.5)))
        light = self._light()
        seen = [self._truth(layers, t) for t in range(self.num_frames)]
        truth = [picture * light[t] for t, (picture, _) in enumerate(seen)]
        owners = [owner for _, owner in seen]
        frames, masks = truth, None
        if self.random.uniform() < self.style.object:
            thing = self._before(camera, parallax=self.random.uniform(-1, 2), sides=self.style.sides)
            covered = [self._cover(thing, picture, t, light[t]) for t, picture in enumerate(truth)]
            frames, masks = [frame for frame, _ in covered], np.stack([mask for _, mask in covered])
        if masks is None or not masks.any():
            masks = random_masks(self.random, self.num_frames, *self.size, sides=self.style.sides)
        pairs = range(self.num_frames - 1)
        return SyntheticClip(
            frames=np.stack([_levels(frame) for frame in frames]),
            truth=np.stack([_levels(picture) for picture in truth]),
            masks=masks,
            flow_f=self._flows(layers, owners, [(t, t + 1) for t in pairs]),
            flow_b=self._flows(layers, owners, [(t + 1, t) for t in pairs]),
        )

    def _camera(self) -> np.ndarray:
        """Return the camera's path: [T, 8]: shift (2) in pixels, log zoom, turn, shear, stretch, perspective (2)."""
        random, width = self.random, self.size[1]
        speed = np.exp(random.uniform(*np.log(self.style.speed))) * width
        # Largest rate of each, a frame: so that no part moves the picture's edge faster than the shift itself may.
        rates = np.array([speed, 0.6 * speed, *4 * [0.8 * speed / width], *2 * [0.3 * speed / width**2]])
        rates *= random.uniform(0, 1, 8) * np.where(random.uniform(size=8) < 0.7, 1, 0)
        frames = np.arange(self.num_frames)
        period, phase = random.uniform(20, 140, 8), random.uniform(0, 2 * np.pi, 8)
        swing = np.sin(2 * np.pi * frames[:, None] / period + phase) - np.sin(phase)
        path = rates * swing * period / (2 * np.pi)
        path[:, :2] += random.uniform(-1, 1, (self.num_frames, 2)) * random.uniform(0, self.style.shake)
        return path - path[self.num_frames // 2]

    def _matrices(self, path: np.ndarray) -> np.ndarray:
        """Return, for each frame, the map of its pixels to the picture's plane: [T, 3, 3], about the frame's middle."""
        height, width = self.size
        middle = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
        matrices = []
        for x, y, zoom, turn, shear, stretch, tilt_x, tilt_y in path:
            cosine, sine = np.cos(turn) * np.exp(zoom), np.sin(turn) * np.exp(zoom)
            linear = np.array([[cosine, -sine], [sine, cosine]]) @ [[1 + stretch, shear], [0, 1 - stretch]]
            inner = np.eye(3)
            inner[:2, :2], inner[:2, 2], inner[2, :2] = linear, (x, y), (tilt_x, tilt_y)
            matrices.append(middle @ inner @ np.linalg.inv(middle))
        return np.array(matrices)

    def _corners(self, matrices: np.ndarray) -> np.ndarray:
        height, width = self.size
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
        seen = np.einsum("tij,cj->tci", matrices, corners).reshape(-1, 3)
        return seen[:, :2] / seen[:, 2:]

    def _background(self, camera: np.ndarray) -> Layer:
        matrices = self._matrices(camera)
        corners = self._corners(matrices)
        low, high = corners.min(0) - 2, corners.max(0) + 2
        columns, rows = np.ceil(high - low).astype(int)
        return Layer(self._picture(rows, columns), _shift(-low) @ matrices)

    def _before(self, camera: np.ndarray, parallax: float, sides: tuple[float, float]) -> Layer:
        """Return a layer of a free form that moves `parallax` times as the camera does, and by itself."""
        random, (height, width) = self.random, self.size
        path = camera.copy()
        path[:, :2] *= parallax
        own = random.uniform(-1, 1, 2) * random.uniform(0, self.style.own_speed) * width
        path[:, :2] += own * (np.arange(self.num_frames)[:, None] - self.num_frames / 2)
        rows, columns = (int(max(16, random.uniform(*sides) * side)) for side in (height, width))
        start = random.uniform(0.1, 0.9, 2) * (width, height) - np.array([columns, rows]) / 2
        alpha = filled_curve(1 + closed_curve(random) * (columns - 2, rows - 2), rows, columns, smooth=True)
        return Layer(self._picture(rows, columns), _shift(-start) @ self._matrices(path), alpha)

    def _picture(self, rows: int, columns: int) -> np.ndarray:
        """Cut a picture to rows x columns: a part of a photograph or of a texture, at about its own resolution."""
        random = self.random
        if random.uniform() < self.style.photograph:
            source = self.pictures[random.integers(len(self.pictures))]
        else:
            source = TEXTURES[random.integers(len(TEXTURES))](random)
        fit = min(source.shape[0] / rows, source.shape[1] / columns)  # scale of the largest part with this shape
        scale = min(fit, random.uniform(0.6, 2.5))
        part_h, part_w = max(2, int(rows * scale)), max(2, int(columns * scale))
        top = random.integers(0, source.shape[0] - part_h + 1)
        left = random.integers(0, source.shape[1] - part_w + 1)
        part = source[top : top + part_h, left : left + part_w]
        if random.uniform() < 0.5:
            part = part[:, ::-1]
        if random.uniform() < 0.3:
            part = part[:, :, random.permutation(3)]
        part = np.ascontiguousarray(part)
        return cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC)

    def _light(self) -> np.ndarray:
        most, period = self.random.uniform(0, self.style.light), self.random.uniform(8, 60)
        phase = self.random.uniform(0, 2 * np.pi)
        return 1 + most * np.sin(2 * np.pi * np.arange(self.num_frames) / period + phase)

    def _truth(self, layers: list[Layer], t: int) -> tuple[np.ndarray, np.ndarray]:
        """Return frame t without the object, float32 [H, W, 3], and the number of the layer seen, [H, W]."""
        picture, _ = layers[0].seen(t, self.size)
        owner = np.zeros(self.size, np.uint8)
        for number, layer in enumerate(layers[1:], 1):
            colours, cover = layer.seen(t, self.size)
            assert cover is not None
            picture += (colours - picture) * cover
            owner[cover[..., 0] > 0.5] = number
        return picture, owner

    def _cover(self, thing: Layer, picture: np.ndarray, t: int, light: float) -> tuple[np.ndarray, np.ndarray]:
        colours, cover = thing.seen(t, self.size)
        assert cover is not None
        return picture + (colours * light - picture) * cover, (cover[..., 0] > 0).astype(np.uint8)

    def _flows(self, layers: list[Layer], owners: list[np.ndarray], pairs: list[tuple[int, int]]) -> np.ndarray:
        flows = []
        for start, stop in pairs:
            flow = layers[0].flow(start, stop, self.points)
            for number, layer in enumerate(layers[1:], 1):
                own = owners[start] == number
                if own.any():
                    flow[own] = layer.flow(start, stop, self.points)[own]
            flows.append(flow.transpose(2, 0, 1).astype(np.float32))
        return np.stack(flows) if flows else np.zeros((0, 2, *self.size), np.float32)


def _shift(offset: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = offset
    return matrix


def _levels(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
