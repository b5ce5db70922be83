"""The photographs that synthetic clips are drawn from: who ships them, under which licence, and the split.

None is of the built-in sample clip (skimage's coffee and motorcycle), whose quality is measured.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from propainter.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

# Pillow's exceptions for files that it cannot read.
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

LARGEST_SIDE = 1600
"""Larger photographs are reduced to this many pixels: clips are far smaller."""


@dataclass(frozen=True)
class Photograph:
    """Name one picture that an installed package ships.

    Attributes:
        package: the Python package that holds it.
        path: inside the package.
        licence: of the picture.
        held_out: whether it is kept from training, for measuring.
    """

    package: str
    path: str
    licence: str
    held_out: bool = False


SHIPPED = (
    Photograph("skimage", "data/astronaut.png", "public domain (NASA)", held_out=True),
    Photograph("skimage", "data/chelsea.png", "CC0 (Stefan van der Walt)", held_out=True),
    Photograph("skimage", "data/rocket.jpg", "CC0 (SpaceX)", held_out=True),
    Photograph("skimage", "data/brick.png", "CC0 (CC0Textures)"),
    Photograph("skimage", "data/camera.png", "CC0 (Lav Varshney)"),
    Photograph("skimage", "data/coins.png", "no known copyright (Brooklyn Museum)"),
    Photograph("skimage", "data/grass.png", "public domain (Linda Landry)"),
    Photograph("skimage", "data/gravel.png", "CC0 (CC0Textures)"),
    Photograph("skimage", "data/hubble_deep_field.jpg", "public domain (NASA)"),
    Photograph("skimage", "data/moon.png", "public domain (NASA)"),
    Photograph("sklearn", "datasets/images/china.jpg", "CC BY 2.0 (danielbuechele)"),
    Photograph("sklearn", "datasets/images/flower.jpg", "CC BY 2.0 (vultilion)"),
    Photograph("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "public domain (US Navy)"),
)
"""Pictures of scikit-image, scikit-learn and matplotlib, with their licences as stated there."""


def photographs(split: str, folder: str | Path | None = None) -> list[np.ndarray]:
    """Return pictures, each uint8 [H, W, 3], in a fixed order.

    Args:
        split: "train" or "held_out".
        folder: further pictures for training, all files of it by name; None for the shipped ones alone.

    Raises:
        InputError: a package that ships pictures is not installed, the folder holds no picture or a bad one, or there
            is no such split.
    """
    if split not in ("train", "held_out"):
        raise InputError(f"the split is {split!r}; give train or held_out")
    return list(_read(split == "held_out", None if folder is None or split == "held_out" else str(folder)))


@lru_cache(maxsize=4)
def _read(held_out: bool, folder: str | None) -> tuple[np.ndarray, ...]:
    paths = [_path(photograph) for photograph in SHIPPED if photograph.held_out == held_out]
    if folder is not None:
        paths += _inside(folder)
    return tuple(_picture(path) for path in paths)


def _inside(folder: str) -> list[Path]:
    place = Path(folder).expanduser()
    if not place.is_dir():
        what = "a file" if place.exists() else "not there"
        raise InputError(f"{folder} is {what}; give a folder of photographs")
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(
            f"{folder} holds no picture ({', '.join(SUFFIXES)}); give a folder of photographs for training"
        )
    return found


def _path(photograph: Photograph) -> Path:
    spec = find_spec(photograph.package)
    if spec is None or spec.origin is None:
        raise InputError(
            f"{photograph.path} is shipped by {photograph.package}, which is not installed; "
            "install the extra: pip install 'propainter-bench[training]'"
        )
    path = Path(spec.origin).parent / photograph.path
    if not path.is_file():
        raise InputError(f"the installed {photograph.package} lacks its picture {photograph.path}; install it again")
    return path


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * LARGEST_SIDE, 2 * LARGEST_SIDE))  # a JPEG decodes at a fraction of its size
            picture = opened.convert("RGB")
    except _BROKEN as error:
        raise InputError(f"{path} can't be read as a picture ({error}); take it out of the folder") from None
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    if min(picture.size) < 2:
        raise InputError(
            f"{path} has {picture.width}x{picture.height} pixels, too few a side; take it out of the folder"
        )
    return np.asarray(picture)
