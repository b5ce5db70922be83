"""Read and write images by Pillow.

Frames are uint8 RGB arrays [H, W, 3]. Masks are uint8 arrays [H, W], 1 in the hole and 0 around it.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from propainter.errors import InputError
from propainter.io.atomic import atomic_write

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

LOSSLESS_THRESHOLD = 0
"""Mask values above it are hole, as published."""

LOSSY_THRESHOLD = 127
"""The same for files whose compression leaves small values where there was 0."""

_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")

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
    with _as_sentence(path):
        image, _ = _open_image(path)
        if not image.mode.startswith(("I", "F")):
            return np.array(_colours(image).convert("RGB"))
    raise InputError(f"{path} has {image.mode} pixels, where 8 bits a channel were expected: save it as 8-bit RGB.")


@dataclass(frozen=True)
class MaskImage:
    """A mask as it is stored, before a threshold.

    Attributes:
        values: uint8 [H, W], the brightest colour channel; 0 where a pixel is fully transparent. Values above 8 bits
            are scaled, and none but 0 becomes 0.
        lossless: whether the file keeps values exactly, unlike JPEG.
    """

    values: np.ndarray
    lossless: bool

    @property
    def threshold(self) -> int:
        """The greatest value that is not hole: 0 as published, or the middle where compression blurs 0."""
        return LOSSLESS_THRESHOLD if self.lossless else LOSSY_THRESHOLD


def read_mask(path: Path, threshold: int | None = None) -> np.ndarray:
    """Read a mask as uint8 [H, W]: 1 for values above the threshold, else 0.

    The value is that of the brightest colour channel, in a palette image too. A fully transparent pixel is 0.

    Args:
        path: an image.
        threshold: 0 to 254; None for 0 where the file is lossless, and 127 where it is not.

    Raises:
        InputError: the file is missing or damaged.
    """
    mask = read_mask_image(path)
    return (mask.values > (mask.threshold if threshold is None else threshold)).astype(np.uint8)


def read_mask_image(path: Path) -> MaskImage:
    """Read the values of a mask. Raise InputError where the file is missing or damaged."""
    with _as_sentence(path):
        image, lossless = _open_image(path)
        return MaskImage(_mask_values(image), lossless)


def is_lossless(path: Path) -> bool:
    """Return whether an image file keeps values exactly. Raise InputError where the file is missing or damaged."""
    with _as_sentence(path), Image.open(path) as image:
        return _keeps_values(image, path)


def _mask_values(image: Image.Image) -> np.ndarray:
    image = _colours(image)
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA") and not image.mode.startswith(("I", "F")):
        image = image.convert("RGB")
    values = np.array(image)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype != np.uint8:
        return _as_8_bits(values, image.info.get("transparency"))
    if image.mode.endswith("A"):
        return np.where(values[..., -1] > 0, values[..., :-1].max(axis=2), np.uint8(0))
    return values if values.ndim == 2 else values.max(axis=2)


def _as_8_bits(values: np.ndarray, transparent: int | None) -> np.ndarray:
    """Scale grey of 16 bits or of floating point, [0, 1] too, to [1, 255], and keep 0."""
    hole = (values != 0) & (values != transparent)
    numbers = np.nan_to_num(values.astype(np.float64))
    greatest = numbers.max(initial=0)
    if values.dtype == np.uint16 or greatest > 255:
        numbers = numbers / 257
    elif values.dtype.kind == "f" and greatest <= 1:
        numbers = numbers * 255
    return np.where(hole, np.ceil(numbers).clip(1, 255), 0).astype(np.uint8)


def _colours(image: Image.Image) -> Image.Image:
    """Return an image of a palette, or of one transparent colour, by its colours; others as they are."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA")
    if image.mode in ("1", "L", "RGB") and "transparency" in image.info:
        return image.convert("RGBA")
    return image


def _open_image(path: Path) -> tuple[Image.Image, bool]:
    """Return the image, upright, and whether its file is lossless."""
    with Image.open(path) as image:
        image.load()
        lossless = _keeps_values(image, path)
        upright = ImageOps.exif_transpose(image)
        depth = _grey_bits(path) if image.format == "PNG" and image.mode == "L" and "transparency" in image.info else 8
        if depth < 8:  # Pillow scales the pixels to 8 bits, and leaves the transparent value as it is
            upright.info["transparency"] *= 255 // (2**depth - 1)
        return upright, lossless


def _grey_bits(path: Path) -> int:
    with Path(path).open("rb") as file:
        return file.read(25)[24]  # in IHDR, which is the first chunk


def _keeps_values(image: Image.Image, path: Path) -> bool:
    if image.format == "WEBP":
        return b"VP8 " not in _webp_chunks(Path(path).read_bytes())
    return image.format not in _LOSSY_FORMATS and image.info.get("compression") not in _LOSSY_TIFF


def _webp_chunks(content: bytes) -> set[bytes]:
    """Return the names of a WebP file's chunks (RFC 9649), and of those in its animation's frames."""
    names, at = set(), 12
    while at + 8 <= len(content):
        name, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        names.add(name)
        at += 8 + (16 if name == b"ANMF" else length + length % 2)
    return names


@contextmanager
def _as_sentence(path: Path) -> Iterator[None]:
    """Raise what Pillow raises inside the block as InputError that names the path."""
    try:
        yield
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
