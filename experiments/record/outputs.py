"""The pictures of a run: the video, frames on request, and a preview of a few frames."""

import os
import shutil
import time
from collections.abc import Container, Iterable
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image, ImageDraw

from experiments.data import Clip, LoadedClip
from experiments.data.outside import INPUT, RESAMPLED, is_resampled, own_pixels_outside
from experiments.record import types
from experiments.record.stream_state import STATE
from experiments.record.video_format import written_format
from experiments.record.video_section import describe_video, streams_of
from propainter.io.fragmented_writer import FragmentedVideoWriter, partial_path
from propainter.io.images import write_png
from propainter.io.remux import Tracks
from propainter.io.video_writer import VideoWriter

VIDEO = "inpainted.mp4"

PUBLISHED_VIDEO, PUBLISHED_INPUT = "inpaint_out.mp4", "masked_in.mp4"
"""What the published script calls the result and the input with its hole tinted."""

REPEATED = "throughput"
"""Folder in the run folder for the clips of `measure.scenario=throughput`, gone when they are done."""

AMPLIFY = 10
"""Factor of the difference to the reference in the preview."""

PREVIEW_WIDTH = 480
"""Widest preview frame, in pixels; the report uses these."""

_TINT = np.array([255, 40, 80])
_LABEL_HEIGHT = 14


def clear_outputs(folder: Path) -> None:
    """Remove an earlier run's files from the folder: none may be taken for the new run's."""
    for name in (
        "record.json",
        VIDEO,
        PUBLISHED_VIDEO,
        PUBLISHED_INPUT,
        partial_path(Path(VIDEO)).name,
        STATE,
        "preview.png",
    ):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / REPEATED, ignore_errors=True)
    for image in [*folder.glob("preview/*.png"), *folder.glob("frames/*.png")]:
        image.unlink()


def write_result(
    folder: Path,
    clip: Clip,
    images: Iterable[np.ndarray],
    output: DictConfig,
    *,
    dilation: int | None = None,
    growing: bool = False,
    keep_frames: int = 0,
    part_ends: Container[int] | None = None,
) -> types.Video:
    """Write `inpainted.mp4` and, where `output.frames` asks for it, every frame as `frames/NNNNN.png`.

    Args:
        clip: what the images come from; the video is written as its video was.
        images: the result, uint8 [H, W, 3] each, made one by one.
        output: the config's `output`.
        dilation: of the schedule: outside the masks, dilated so often, the clip's own pixels are written, unless
            `output.outside` is "resampled". None: the images as they are, which are the clip's own frames.
        growing: `inpainted.partial.mp4` can be played meanwhile, and stays with the images so far where an error ends
            this.
        keep_frames: so many frames of an earlier `inpainted.partial.mp4` are kept, and `images` begin after them.
        part_ends: after how many frames, counted from the clip's first, a run can go on that is stopped later; the
            partial file then stays.

    Returns:
        The record's `video`.
    """
    # First of all: the source may be gone by the end.
    streams = streams_of(clip)
    video_format, times, tracks = written_format(clip, output.pix_fmt), clip.times(), _tracks(clip, output)
    complete = None if tracks is None else tracks.add_to
    writer: VideoWriter
    if growing:
        keeps = part_ends is not None
        writer = FragmentedVideoWriter(
            folder / VIDEO, video_format, times, complete, keep_frames=keep_frames, keep_partial=keeps
        )
    else:
        writer = VideoWriter(folder / VIDEO, video_format, times, complete)
    resampled = dilation is not None and is_resampled(clip)
    if resampled and output.outside == INPUT:
        assert dilation is not None
        images, resampled = own_pixels_outside(images, clip, dilation, skip=keep_frames), False
    count = keep_frames
    with writer as video:
        for image in images:
            video.write(image)
            if output.frames:
                write_frame(folder, count, image)
            count += 1
            if isinstance(video, FragmentedVideoWriter) and part_ends is not None and count in part_ends:
                video.end_part()
    if output.published_names:
        write_published_names(folder, clip, output)
    kept = None if tracks is None else tracks.kept
    return describe_video(clip, streams, writer, count, kept, RESAMPLED if resampled else INPUT)


def _tracks(clip: Clip, output: DictConfig) -> Tracks | None:
    """Return the other streams of the clip's file; None where there is no file, or they are not wanted."""
    info, times = clip.original(), clip.times()
    if output.audio == "none" or info is None or info.path is None:
        return None
    return Tracks(info.path, None if times is None else times[0])


def write_timed(
    folder: Path, clip: Clip, images: Iterable[np.ndarray], output: DictConfig, dilation: int
) -> tuple[types.Video, float]:
    """Write as `write_result` does; return the record's `video`, and the seconds that it took."""
    start = time.perf_counter()
    video = write_result(folder, clip, images, output, dilation=dilation)
    return video, time.perf_counter() - start


def write_published_names(folder: Path, clip: Clip, output: DictConfig) -> None:
    """Write `masked_in.mp4`, and `inpaint_out.mp4` as a hard link to the result, or a copy where there are none."""
    with VideoWriter(folder / PUBLISHED_INPUT, written_format(clip, output.pix_fmt), clip.times()) as video:
        for frame, mask in zip(clip.frames(), clip.masks()):  # noqa: B905
            video.write(tinted(frame, mask))
    result, link = folder / VIDEO, folder / PUBLISHED_VIDEO
    link.unlink(missing_ok=True)
    try:
        os.link(result, link)
    except OSError:
        shutil.copyfile(result, link)


def write_frame(folder: Path, number: int, image: np.ndarray) -> None:
    """Write `frames/NNNNN.png`."""
    write_png(frame_path(folder, number), image)


def frame_path(folder: Path, number: int) -> Path:
    """Return the path of one frame's picture."""
    return folder / "frames" / f"{number:05d}.png"


def write_preview(
    folder: Path, clip: LoadedClip, result: np.ndarray, reference: np.ndarray | None, *, count: int, caption: str
) -> None:
    """Write `preview.png` and, where there is a reference, its pictures in `preview/`.

    Args:
        result, reference: uint8 [T, H, W, 3]; without a reference `preview.png` has no reference and no difference.
        count: how many frames, spread evenly, are shown.
        caption: the line above the preview.
    """
    rows = []
    for number in np.linspace(0, len(result) - 1, min(count, len(result))).round().astype(int):
        images = preview_images(clip, result, reference, number)
        for name, image in images.items() if reference is not None else ():
            write_png(folder / "preview" / f"{number:05d}_{name}.png", image)
        rows.append((number, images))
    write_png(folder / "preview.png", strip(rows, caption))


def preview_images(
    clip: LoadedClip, result: np.ndarray, reference: np.ndarray | None, number: int
) -> dict[str, np.ndarray]:
    """Return one frame's pictures, uint8 [h, w, 3].

    They are the input with the hole tinted, the result, the truth where the clip has one, and the reference and the
    amplified difference where there is a reference.
    """
    images = {"input": tinted(clip.frames[number], clip.masks[number]), "result": result[number]}
    if clip.truth is not None:
        images["truth"] = clip.truth[number]
    if reference is not None:
        difference = np.abs(result[number].astype(int) - reference[number].astype(int)) * AMPLIFY
        images |= {"reference": reference[number], "difference": difference.clip(0, 255).astype(np.uint8)}
    return {name: _shrink(image) for name, image in images.items()}


def tinted(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a frame, uint8 [H, W, 3], with the hole of its mask in colour."""
    return np.where(mask[..., None] != 0, (frame * 0.4 + _TINT * 0.6).astype(np.uint8), frame)


def strip(rows: list[tuple[int, dict[str, np.ndarray]]], caption: str) -> np.ndarray:
    """Arrange the preview images side by side, one frame a row, labelled; return uint8 [H, W, 3]."""
    height, width = next(iter(rows[0][1].values())).shape[:2]
    names = list(rows[0][1])
    canvas = Image.new("RGB", (width * len(names), (height + _LABEL_HEIGHT) * len(rows) + _LABEL_HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((3, 1), caption, fill="black")
    for row, (number, images) in enumerate(rows):
        top = row * (height + _LABEL_HEIGHT) + _LABEL_HEIGHT
        for column, name in enumerate(names):
            label = f"{name} x{AMPLIFY}" if name == "difference" else name
            draw.text((column * width + 3, top + 1), f"{label}, frame {number}", fill="black")
            canvas.paste(Image.fromarray(images[name]), (column * width, top + _LABEL_HEIGHT))
    return np.asarray(canvas)


def _shrink(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= PREVIEW_WIDTH:
        return image
    size = (PREVIEW_WIDTH, round(height * PREVIEW_WIDTH / width))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
