"""Frames become RGB by their own colours, HDR becomes SDR, and interlaced frames become whole."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from propainter.errors import InputError
from propainter.io.frame_converter import FrameConverter
from propainter.io.video import iterate_video

MATRICES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""H.273's number of a matrix: its KR and KB (https://www.itu.int/rec/T-REC-H.273)."""
UNTAGGED = 2
BLOCK = 16


def blocks(pix_fmt: str, codes: np.ndarray, matrix: int, full: bool, transfer: int = 1) -> av.VideoFrame:
    """Return a frame with a column of 16 pixels for each of the codes [3, N]."""
    frame = av.VideoFrame(BLOCK * codes.shape[1], BLOCK, pix_fmt)
    dtype = np.uint16 if "le" in pix_fmt else np.uint8
    for plane, values in zip(frame.planes, codes, strict=True):
        pixels = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)
        pixels[:, : plane.width] = np.repeat(values, plane.width // codes.shape[1])
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    frame.color_trc, frame.color_primaries = transfer, 9 if matrix == 9 else 1
    frame.pts, frame.time_base = 0, Fraction(1, 24)
    return frame


def converted(frame: av.VideoFrame, tonemap: bool = True) -> np.ndarray:
    """Return the RGB [N, 3] of each column's middle."""
    (image,) = FrameConverter(Path("clip.mp4"), False, None, tonemap).convert([frame])
    return image[BLOCK // 2, BLOCK // 2 :: BLOCK].astype(int)


def h273(codes: np.ndarray, matrix: int, bits: int, full: bool) -> np.ndarray:
    """Compute RGB [N, 3] in 0..255 by the formula, as real numbers."""
    kr, kb = MATRICES[6 if matrix == UNTAGGED else matrix]
    step, most = 1 << bits - 8, (1 << bits) - 1
    luma, cb, cr = codes.astype(float)
    luma = luma / most if full else (luma - 16 * step) / (219 * step)
    cb, cr = ((values - 128 * step) / (most if full else 224 * step) for values in (cb, cr))
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    return 255 * np.stack([red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue], axis=1).clip(0, 1)


@pytest.mark.parametrize("matrix", [*MATRICES, UNTAGGED])
@pytest.mark.parametrize(
    ("pix_fmt", "bits", "full", "most"),
    [
        ("yuv420p", 8, False, 0.55),
        ("yuv420p", 8, True, 0.55),
        ("yuvj420p", 8, True, 0.55),
        ("yuv422p", 8, False, 0.55),
        ("yuv444p10le", 10, False, 0.55),
        ("yuv444p", 8, False, 0.55),
        ("yuv444p", 8, True, 0.55),
        ("yuv444p12le", 12, False, 0.55),
    ],
)
def test_rgb_is_by_the_frames_own_matrix_and_range(
    pix_fmt: str, bits: int, full: bool, most: float, matrix: int
) -> None:
    low, high = np.array([[16], [60], [60]]), np.array([[235], [196], [196]])
    codes = np.random.default_rng(0).integers(low << bits - 8, high << bits - 8, (3, 40))

    rgb = converted(blocks(pix_fmt, codes, matrix, full))

    assert np.abs(rgb - h273(codes, matrix, bits, full)).max() < most


def grey(light: Sequence[float], transfer: int) -> av.VideoFrame:
    """Return 10-bit greys: PQ of nits, or HLG's codes in 0..1."""
    values = np.array(light)
    if transfer == 16:  # https://www.itu.int/rec/R-REC-BT.2100
        power = (values / 10000) ** (2610 / 16384)
        values = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    luma = np.round(64 + 876 * values).astype(int)
    return blocks("yuv444p10le", np.stack([luma, np.full_like(luma, 512), np.full_like(luma, 512)]), 9, False, transfer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transfer", "light"), [(16, (0, 5, 26, 100, 203, 1000, 10000)), (18, (0, 0.2, 0.4, 0.6, 0.75, 0.9, 1))]
)
def test_hdr_greys_stay_grey_and_in_order_and_white_is_bright(transfer: int, light: tuple[float, ...]) -> None:
    frame = grey(light, transfer)

    rgb = converted(frame)

    assert np.ptp(rgb, axis=1).max() <= 1
    assert (np.diff(rgb[:, 1]) > 5).all()
    assert rgb[0].max() == 0
    assert rgb[-1].min() >= 254
    assert 145 <= rgb[4, 1] <= 200


def test_masks_codes_are_left_as_they_are() -> None:
    rgb = converted(grey((0, 100, 10000), 16), tonemap=False)

    assert np.abs(rgb[:, 1] - [0, 130, 255]).max() <= 1


def test_bt2020_without_an_hdr_transfer_is_sdr() -> None:
    codes = np.array([[400, 700], [500, 520], [530, 500]])

    rgb = converted(blocks("yuv444p10le", codes, 9, False, transfer=14))

    assert np.abs(rgb - h273(codes, 9, 10, False)).max() < 0.55


def woven(path: Path, count: int = 8, first: int = 0) -> None:
    """Write a bar that moves by 6 pixels per field; from frame `first` on two fields are woven, bottom first."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuv420p"
        if first == 0:
            stream.options = {"flags": "+ildct+ilme", "crf": "8"}
        for index in range(count):
            fields = [bar(12 * index + 6 * field) for field in (0, 1)]
            image = fields[0].copy()
            if index >= first:
                image[::2] = fields[1][::2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def bar(left: int) -> np.ndarray:
    image = np.full((96, 192, 3), 40, np.uint8)
    image[:, 20 + left : 50 + left] = 200
    return image


def combing(image: np.ndarray) -> float:
    """Compute how far lines differ from the mean of their neighbours, in levels."""
    luma = image[8:-8].mean(axis=2)
    return float(np.abs(luma[1:-1] - (luma[:-2] + luma[2:]) / 2).mean())


def test_interlaced_frames_become_whole_one_for_one(tmp_path: Path) -> None:
    path = tmp_path / "woven.mp4"
    woven(path)

    left = list(iterate_video(path, deinterlace="none"))
    whole = list(iterate_video(path))

    assert len(whole) == len(left) == 8
    for index, (before, after) in enumerate(zip(left, whole, strict=True)):
        assert combing(before) > 5
        assert combing(after) < combing(before) / 3
        early, late = (np.abs(after.astype(int) - bar(12 * index + step)).mean() for step in (0, 6))
        assert early < late


def test_progressive_frames_are_left_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "progressive.mp4"
    woven(path, first=99)

    assert np.array_equal(list(iterate_video(path)), list(iterate_video(path, deinterlace="none")))


@pytest.mark.parametrize(
    ("option", "hdr", "deinterlace"), [("hdr", "maybe", "auto"), ("deinterlace", "tonemap", "maybe")]
)
def test_unknown_choices_are_one_sentence(tmp_path: Path, option: str, hdr: str, deinterlace: str) -> None:
    path = tmp_path / "clip.mp4"
    woven(path, count=2)

    with pytest.raises(InputError, match=f"data.{option}=maybe is unknown: give "):
        next(iterate_video(path, hdr=hdr, deinterlace=deinterlace))
