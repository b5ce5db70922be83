"""Images: natural order, every mode, masks of every kind, damaged files."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.sentences import raises_sentence

from propainter.errors import InputError
from propainter.io.images import is_lossless, list_images, read_image, read_mask, write_png

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


def test_images_come_in_natural_order_and_nothing_else_comes(tmp_path):
    names = ["frame_1.png", "frame_2.png", "frame_10.png", "frame_10b.JPG"]
    for name in [*reversed(names), ".hidden.png", "notes.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    assert [path.name for path in list_images(tmp_path)] == names


@given(numbers=st.lists(st.integers(0, 10**7), min_size=1, max_size=12, unique=True))
@settings(max_examples=30, deadline=None)
def test_numbered_images_come_in_the_order_of_their_numbers(tmp_path_factory, numbers):
    folder = tmp_path_factory.mktemp("numbered")
    for number in numbers:
        (folder / f"img{number}.png").touch()
    assert [int(path.stem[3:]) for path in list_images(folder)] == sorted(numbers)


def test_what_is_no_folder_of_images_gives_a_sentence(tmp_path):
    a_file = tmp_path / "a.png"
    a_file.touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, reason in [(tmp_path / "none", "does not exist"), (a_file, "is a file"), (empty, "no image")]:
        with raises_sentence(path, reason):
            list_images(path)


def test_images_of_every_mode_become_rgb(tmp_path):
    rgb = PICTURE
    for mode in ("RGB", "RGBA", "L", "P", "LA"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(rgb).convert(mode).save(path)
        image = read_image(path)
        assert image.shape == rgb.shape and image.dtype == np.uint8
    assert np.array_equal(read_image(tmp_path / "RGB.png"), rgb)


def test_sixteen_bit_frames_are_refused(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)
    with raises_sentence(path, "8 bits"):
        read_image(path)


def test_orientation_of_a_camera_is_applied(tmp_path):
    rgb = PICTURE
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(rgb, -1))


HOLE = np.zeros((20, 30), np.uint8)
HOLE[5:9, 7:20] = 1


def palette_image(indices, colours):
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([level for colour in colours for level in colour])
    return image


def mask_images():
    """Pictures of every kind, whose hole is HOLE."""
    grey = Image.fromarray(HOLE)
    blue = Image.fromarray(np.stack([0 * HOLE, 0 * HOLE, HOLE * 9], axis=2))
    painted = Image.new("RGB", grey.size, "white")
    painted.putalpha(Image.fromarray(HOLE * 255))
    faint = Image.new("LA", grey.size, 255)
    faint.putalpha(Image.fromarray(HOLE))
    black, white = (0, 0, 0), (255, 255, 255)
    return {
        "grey": grey,
        "blue": blue,
        "painted": painted,
        "grey_and_alpha": faint,
        "deep": Image.fromarray(HOLE.astype(np.uint16)),
        "bits": grey.point(lambda v: v * 255).convert("1"),
        "davis": palette_image(HOLE, [black, (128, 0, 0), (0, 128, 0)]),
        "white_first": palette_image(1 - HOLE, [white, black]),
        "two_blacks": palette_image(HOLE * 2 + (HOLE == 0) * (np.arange(30) % 2), [black, black, (0, 0, 1)]),
    }


KINDS = {
    "png": list(mask_images()),
    "tif": list(mask_images()),
    "webp": [kind for kind in mask_images() if kind != "deep"],
    "bmp": ["grey", "blue", "bits", "davis", "white_first", "two_blacks"],
    "gif": ["grey", "bits", "davis", "white_first", "two_blacks"],
}


@pytest.mark.parametrize(("suffix", "kind"), [(suffix, kind) for suffix, kinds in KINDS.items() for kind in kinds])
def test_any_value_but_zero_is_hole_where_the_file_is_lossless(tmp_path, kind, suffix):
    path = tmp_path / f"mask.{suffix}"
    mask_images()[kind].save(path, **({"lossless": True} if suffix == "webp" else {}))
    mask = read_mask(path)
    assert is_lossless(path) and mask.dtype == np.uint8 and np.array_equal(mask, HOLE)


def png(path, depth, kind, rows, **chunks):
    """Write a PNG by its chunks, of kinds that Pillow doesn't write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(
        ">IIBBBBB", len(rows[0]) * 8 // depth // (3 if kind == 2 else 1), len(rows), depth, kind, 0, 0, 0
    )
    parts = [chunk(b"IHDR", header), *(chunk(name.encode(), bytes(data)) for name, data in chunks.items())]
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


GREY, RGB, PALETTE = 0, 2, 3
WHITE_BLACK = [255, 255, 255, 0, 0, 0]


@pytest.mark.parametrize(
    ("depth", "kind", "row", "chunks", "hole"),
    [
        (1, PALETTE, [0b00001111], {"PLTE": WHITE_BLACK}, [1, 1, 1, 1, 0, 0, 0, 0]),
        (1, PALETTE, [0b00001111], {"PLTE": WHITE_BLACK, "tRNS": [0]}, [0] * 8),
        (2, PALETTE, [0b00011011], {"PLTE": [*WHITE_BLACK, 9, 9, 9, 0, 0, 1]}, [1, 0, 1, 1]),
        (2, PALETTE, [0b00011011], {"PLTE": [*WHITE_BLACK, 9, 9, 9, 0, 0, 1], "tRNS": [1, 9, 0, 255]}, [1, 0, 0, 1]),
        (4, PALETTE, [0x01, 0x23], {"PLTE": [*WHITE_BLACK, 0, 0, 0, 0, 1, 0]}, [1, 0, 0, 1]),
        (1, GREY, [0b00001111], {}, [0, 0, 0, 0, 1, 1, 1, 1]),
        (1, GREY, [0b00001111], {"tRNS": [0, 1]}, [0] * 8),
        (2, GREY, [0b00011011], {"tRNS": [0, 1]}, [0, 0, 1, 1]),
        (4, GREY, [0x0F, 0x5F], {"tRNS": [0, 15]}, [0, 0, 1, 0]),
        (8, GREY, [0, 1, 255], {"tRNS": [0, 255]}, [0, 1, 0]),
        (16, GREY, [0, 0, 0, 1, 1, 2, 255, 255], {"tRNS": [1, 2]}, [0, 1, 0, 1]),
        (8, RGB, [0, 0, 0, 1, 2, 3, 3, 2, 1], {"tRNS": [0, 1, 0, 2, 0, 3]}, [0, 0, 1]),
    ],
)
def test_a_transparent_colour_is_no_hole(tmp_path, depth, kind, row, chunks, hole):
    png(tmp_path / "mask.png", depth, kind, [row], **chunks)
    assert read_mask(tmp_path / "mask.png").tolist() == [hole]


def test_a_palette_frame_is_read_by_its_colours(tmp_path):
    png(tmp_path / "a.png", 2, PALETTE, [[0b00011011]], PLTE=[1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0], tRNS=[9, 0, 255, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png").tolist() == [[[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]]]


@pytest.mark.parametrize("name", ["a.jpg", "jpeg.png", "a.webp", "animated.webp", "a.tif", "cmyk.jpg"])
def test_in_a_lossy_file_values_above_the_middle_are_hole(tmp_path, name):
    disc = np.hypot(*(np.mgrid[:96, :128] - np.array([[[48]], [[64]]]))) < 20
    image = Image.fromarray(np.where(disc, 255, 0).astype(np.uint8))
    options = {"a.webp": {"quality": 50}, "a.tif": {"compression": "jpeg", "quality": 50}}.get(name, {"quality": 50})
    if name == "animated.webp":
        options |= {"save_all": True, "append_images": [image.rotate(90)], "lossless": False}
    kind = "WEBP" if name.endswith("webp") else "TIFF" if name.endswith("tif") else "JPEG"
    (image.convert("RGB").convert("CMYK") if name == "cmyk.jpg" else image).save(tmp_path / name, kind, **options)
    mask = read_mask(tmp_path / name)
    assert not is_lossless(tmp_path / name)
    assert np.count_nonzero(mask != disc) < 0.02 * np.count_nonzero(disc)
    assert np.count_nonzero(read_mask(tmp_path / name, 0) != disc) > 0.1 * np.count_nonzero(disc)


def test_a_given_threshold_wins(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 1, 100, 101, 255]], np.uint8)).save(path)
    assert read_mask(path, 100).tolist() == [[0, 0, 0, 1, 1]]
    Image.fromarray(np.array([[0, 257, 25700, 25701, 65535]], np.uint16)).save(path)
    assert read_mask(path, 100).tolist() == [[0, 0, 0, 1, 1]]
    Image.fromarray(np.array([[0, 0.1, 0.3, 0.5, 1]], np.float32)).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif", 100).tolist() == [[0, 0, 0, 1, 1]]


def test_a_mask_of_a_camera_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    palette_image(1 - HOLE, [(255, 255, 255), (0, 0, 0)]).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "turned.png"), np.rot90(HOLE, -1))


@given(cut=st.floats(0, 0.97), flip=st.none() | st.tuples(st.floats(0, 0.99), st.integers(1, 255)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_image_gives_a_sentence_that_names_it(tmp_path, cut, flip):
    whole, damaged = tmp_path / "whole.png", tmp_path / "damaged.png"
    write_png(whole, PICTURE)
    content = bytearray(whole.read_bytes())
    if flip is None:
        content = content[: int(cut * len(content))]
    else:
        content[int(flip[0] * len(content))] ^= flip[1]
    damaged.write_bytes(content)
    try:
        image = read_image(damaged)
    except InputError as error:
        assert str(damaged) in str(error) and "\n" not in str(error)
    else:
        assert flip is not None, "a cut image was read as if it were whole"
        assert image.dtype == np.uint8


def test_a_failed_png_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.complex128))
    assert not list(tmp_path.iterdir())
