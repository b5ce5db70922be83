"""Images: natural order, every mode, masks of every kind, damaged files."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.sentences import raises_sentence

from propainter.errors import InputError
from propainter.io.images import list_images, read_image, read_mask, write_png

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


def mask_images():
    """Pictures of every kind, whose hole is the same rectangle."""
    hole = np.zeros((20, 30), np.uint8)
    hole[5:9, 7:20] = 1
    grey = Image.fromarray(hole)
    palette = Image.fromarray(hole * 3)
    palette.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0] + [7] * 756)
    blue = Image.fromarray(np.stack([0 * hole, 0 * hole, hole * 9], axis=2))
    white = Image.new("RGB", grey.size, "white")
    painted = white.copy()
    painted.putalpha(Image.fromarray(hole * 255))
    deep = Image.fromarray(hole.astype(np.uint16) * 256)
    kinds = {"grey": grey, "palette": palette, "blue": blue, "painted": painted, "deep": deep}
    return hole, kinds | {"bits": grey.point(lambda v: v * 255).convert("1")}


@pytest.mark.parametrize("kind", ["grey", "palette", "blue", "painted", "deep", "bits"])
def test_any_value_but_zero_is_hole(tmp_path, kind):
    hole, images = mask_images()
    images[kind].save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8 and np.array_equal(mask, hole)


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
