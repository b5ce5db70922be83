"""Read and write images by Pillow.

Frames are uint8 RGB arrays [H, W, 3]. Masks are uint8 arrays [H, W], 1 in the hole and 0 around it.
"""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from propainter.errors import InputError
from propainter.io.atomic import atomic_write

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

# Pillow's exceptions for damaged files of its various formats.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order (frame_2 before frame_10), without hidden files.

    Raises:
        InputError: the folder is missing, is a file, or holds no image.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder} does not exist, where a folder of images was expected: check the path.")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, where a folder of images was expected: give the folder it lies in.")
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    images = [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise InputError(f"{folder} holds no image, where at least one ({kinds}) was expected: check the path.")
    return sorted(images, key=_natural)


def _natural(path: Path) -> tuple:
    pieces = re.split(r"(\d+)", path.name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], path.name


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 RGB [H, W, 3], without its alpha channel, turned by its EXIF orientation.

    Raises:
        InputError: the file is missing, damaged or truncated, or has more than 8 bits of grey.
    """
    image = _open_image(path)
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{path} has {image.mode} pixels, where 8 bits a channel were expected: save it as 8-bit RGB.")
    return np.array(image.convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as uint8 [H, W]: 1 for any image value but 0, else 0.

    In a palette image (as in DAVIS) the value is the index. In a colour image one nonzero channel suffices. A fully
    transparent pixel is 0.

    Raises:
        InputError: the file is missing or damaged.
    """
    image = _open_image(path)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    values = np.array(image)
    if values.ndim == 2:
        return (values != 0).astype(np.uint8)
    has_alpha = image.mode.endswith("A")
    hole = np.asarray((values[..., :-1] if has_alpha else values).any(axis=2))
    if has_alpha:
        hole &= values[..., -1] > 0
    return hole.astype(np.uint8)


def _open_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist, where an image was expected: check the path.") from None
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read as an image ({reason}): replace it by a complete image file."
        ) from error


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] (RGB) or [H, W] (grey) as PNG, atomically; raise OSError on failure."""
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
