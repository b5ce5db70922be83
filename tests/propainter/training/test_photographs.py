"""Photographs: the split holds, the sample's pictures are in neither part, and bad folders are named."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from propainter import InputError
from propainter.training import photographs as module
from propainter.training.photographs import LARGEST_SIDE, SHIPPED, photographs


def picture(path, size=(40, 30), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_the_split_is_disjoint():
    train, held_out = photographs("train"), photographs("held_out")
    assert (len(train), len(held_out)) == (10, 3) and len(train) + len(held_out) == len(SHIPPED)
    assert all(x.dtype == np.uint8 and x.ndim == 3 and x.shape[2] == 3 for x in train + held_out)
    contents = [x.tobytes() for x in train + held_out]
    assert len(set(contents)) == len(contents)


def test_the_samples_own_pictures_are_in_neither():
    import skimage.data

    assert not any(word in photograph.path for photograph in SHIPPED for word in ("coffee", "motorcycle"))
    shown = {x.tobytes() for split in ("train", "held_out") for x in photographs(split)}
    for own in (skimage.data.coffee(), *skimage.data.stereo_motorcycle()[:2]):
        assert own.tobytes() not in shown


def test_each_names_a_licence_and_a_package_of_the_project():
    assert all(photograph.licence for photograph in SHIPPED)
    assert {photograph.package for photograph in SHIPPED} == {"skimage", "sklearn", "matplotlib"}


def test_a_folder_adds_its_pictures_to_training_alone(tmp_path):
    (tmp_path / "deep").mkdir()
    second = picture(tmp_path / "deep" / "b.PNG", seed=1)
    first = picture(tmp_path / "a.png")
    picture(tmp_path / "wide.png", size=(2 * LARGEST_SIDE, 100))
    (tmp_path / "notes.txt").write_text("no picture")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "grey.png")
    added = photographs("train", tmp_path)[len(photographs("train")) :]
    assert np.array_equal(added[0], first) and np.array_equal(added[1], second)
    assert [x.shape for x in added] == [(30, 40, 3), (30, 40, 3), (30, 40, 3), (50, LARGEST_SIDE, 3)]
    assert len(photographs("held_out", tmp_path)) == 3


def cut_short(path):
    picture(path)
    path.write_bytes(path.read_bytes()[:200])


def a_line(path):
    picture(path, size=(2 * LARGEST_SIDE, 1))


def a_bomb(path):
    """A PNG that claims 400 million pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("text"), "can't be read as a picture"),
        (cut_short, "can't be read as a picture"),
        (a_bomb, "can't be read as a picture"),
        (a_line, "1600x1 pixels"),
    ],
    ids=["text", "cut short", "too large", "a line"],
)
def test_a_bad_picture_is_named(tmp_path, write, message):
    write(tmp_path / "bad.png")
    with pytest.raises(InputError, match="bad.png.*") as error:
        photographs("train", tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"), [("missing", "is not there"), ("file.jpg", "is a file"), ("empty", "holds no picture")]
)
def test_a_folder_without_pictures(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=f"{name} {message}.*give a folder of photographs"):
        photographs("train", tmp_path / name)


def test_an_unknown_split():
    with pytest.raises(InputError, match="the split is 'test'; give train or held_out"):
        photographs("test")


def test_a_missing_package_says_what_to_install(monkeypatch):
    find = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "sklearn" else find(name))
    module._read.cache_clear()
    with pytest.raises(
        InputError, match=r"shipped by sklearn, which is not installed; install the extra: .*\[training\]"
    ):
        photographs("train")
    module._read.cache_clear()
    assert len(photographs("held_out")) == 3


def test_a_package_without_its_picture_is_named(monkeypatch):
    lost = (module.Photograph("skimage", "data/lost.png", "none"),)
    monkeypatch.setattr(module, "SHIPPED", lost)
    module._read.cache_clear()
    with pytest.raises(InputError, match="skimage lacks its picture data/lost.png"):
        photographs("train")
    module._read.cache_clear()
