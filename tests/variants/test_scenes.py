"""`scenes`: cuts are found where there are some, read from files, and reported."""

import importlib.util
import sys
from inspect import signature

import numpy as np
import pytest
from support.reusing import clip

from experiments.quality.temporal_consistency import seams_of
from propainter import InputError, Pipeline, Schedule
from variants import UnsupportedError
from variants.chunking import fixed
from variants.fallback import ladder
from variants.scene_detectors import DETECTORS, cuts_of
from variants.scenes import auto, from_file, read_cuts

needs_pyscenedetect = pytest.mark.skipif(
    importlib.util.find_spec("scenedetect") is None, reason="needs PySceneDetect (pip install -e '.[scenes]')"
)
QUICK = Schedule(raft_iterations=1, neighbor_length=4, ref_stride=3)


def shot(seed: int, frames: int, pan: int = 2, height: int = 72, width: int = 128) -> list[np.ndarray]:
    """A picture of soft patches, panning by `pan` pixels a frame."""
    patches = np.random.default_rng(seed).integers(0, 256, (height // 24, (width + 24 * pan * frames) // 24, 3))
    picture = patches.repeat(24, 0).repeat(24, 1).astype(np.uint8)
    return [picture[:, pan * t : pan * t + width] for t in range(frames)]


def found(*shots: list[np.ndarray]) -> list[int]:
    return list(cuts_of((frame for frames in shots for frame in frames), threshold=5, contrast=2.5))


def mixed(first: np.ndarray, second: np.ndarray, frames: int) -> list[np.ndarray]:
    shares = np.arange(1, frames + 1) / (frames + 1)
    return [(first * (1 - share) + second * share).astype(np.uint8) for share in shares]


WHITE = [np.full((72, 128, 3), 255, np.uint8)]


@pytest.mark.parametrize(
    ("lengths", "cuts"),
    [
        ((8, 8), [8]),
        ((1, 7), [1]),
        ((7, 1), [7]),
        ((2, 6), [2]),
        ((5, 3, 5), [5, 8]),
        ((5, 1, 5), [5, 6]),
        ((1, 1), [1]),
    ],
)
def test_cuts_are_found_wherever_they_are(lengths, cuts):
    assert found(*(shot(seed, frames) for seed, frames in enumerate(lengths))) == cuts


def test_cuts_are_found_between_pans_and_dark_shots():
    assert found(shot(0, 8, pan=8), shot(1, 8, pan=8)) == [8]
    assert found([frame // 10 for frame in shot(0, 6)], [frame // 10 for frame in shot(1, 6)]) == [6]


def test_what_is_no_cut():
    still = shot(0, 8)
    assert found(still) == []
    assert found(still[:4], WHITE, still[4:]) == []
    assert found(still[:4], WHITE, WHITE, still[4:]) == []
    assert found(shot(0, 12, pan=16)) == []
    moving = shot(0, 8, pan=8)
    assert found(moving[:1] * 4, moving) == []
    other = shot(1, 1)[0]
    assert found([still[0]] * 4, mixed(still[0], other, 9), [other] * 4) == []
    assert found(still[:1]) == []
    assert found([]) == []


def test_a_cut_too_near_to_the_one_before_is_left_out(narrow):
    pipeline = auto(Pipeline(narrow), min_frames=3)
    frames = [*shot(0, 5), *shot(1, 2), *shot(2, 5)]
    assert list(pipeline.scene_detector(frames, len(frames))) == [5]
    assert pipeline.effective["scenes"] == {"kind": "auto", "detector": "thumbnails", "cuts": [5]}


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("# my cuts\n40\n\n 8\n8\n0\n", [8, 40]),
        ("\ufeff12\r\n20\r\n", [12, 20]),
        ("", []),
        (
            "Timecode List:,00:00:01.000\nScene Number,Start Frame,Start Timecode\n1,1,00:00:00\n2,25,00:00:01\n",
            [24],
        ),
    ],
)
def test_cuts_are_read_from_files(tmp_path, text, cuts):
    path = tmp_path / "cuts.txt"
    path.write_text(text, encoding="utf-8")
    assert read_cuts(path) == cuts


@pytest.mark.parametrize("text", ["1.5\n", "-3\n", "00:00:01\n", "8 12\n"])
def test_a_file_of_something_else_is_refused(tmp_path, narrow, text):
    path = tmp_path / "cuts.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"cuts\.txt has '.*give one number a line$"):
        from_file(Pipeline(narrow), path)


def test_a_missing_file_is_refused(tmp_path, narrow):
    with pytest.raises(InputError, match="can't be read"):
        from_file(Pipeline(narrow), tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"give scenes\.path"):
        from_file(Pipeline(narrow))


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0},
        {"contrast": -1},
        {"min_frames": 0},
        {"threshold": "high"},
        {"threshold": 100, "detector": "thumbnails"},
        {"threshold": 256, "detector": "content"},
        {"threshold": -3, "detector": "adaptive"},
        {"contrast": 2.5, "detector": "adaptive"},
        {"contrast": 2.5, "detector": "content"},
        {"min_frames": 1.5, "detector": "content"},
        {"detector": "histogram"},
        {"detector": ["content"]},
        {"detector": None},
    ],
)
def test_wrong_options_are_refused(narrow, options):
    pipeline = Pipeline(narrow)
    with pytest.raises(InputError, match=f"^scenes.{next(iter(options))} is .*give "):
        auto(pipeline, **options)
    assert pipeline.scene_detector is None


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_without_pyscenedetect_it_says_what_to_install(narrow, monkeypatch, detector):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'propainter-bench\[scenes\]'"):
        auto(Pipeline(narrow), detector=detector)
    assert auto(Pipeline(narrow)).scene_detector


@needs_pyscenedetect
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("size", [(72, 128), (288, 512)])
def test_each_detector_finds_cuts(narrow, detector, size):
    pipeline = auto(Pipeline(narrow), detector=detector, min_frames=6)
    frames = [frame for seed, frames in enumerate((8, 4, 8)) for frame in shot(seed, frames, 2, *size)]
    for _ in range(2):  # no cut is carried over to the next run
        assert list(pipeline.scene_detector(iter(frames), len(frames))) == [8]
    pipeline = auto(Pipeline(narrow), detector=detector)
    assert list(pipeline.scene_detector(frames, len(frames))) == [8, 12]
    name, *library = pipeline.effective["scenes"]["detector"].split(maxsplit=1)
    assert name == detector
    assert library == ([] if detector == "thumbnails" else [f"(scenedetect {sys.modules['scenedetect'].__version__})"])


@needs_pyscenedetect
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_threshold_reaches_each_detector(narrow, detector):
    frames = [frame for seed in range(2) for frame in shot(seed, 6, pan=8)]

    def cuts(threshold):
        return list(auto(Pipeline(narrow), threshold, detector=detector).scene_detector(frames, len(frames)))

    assert cuts(None) == [6]
    assert cuts(99) == []


@needs_pyscenedetect
def test_defaults_of_pyscenedetect_are_those_of_docs_and_config():
    from scenedetect import AdaptiveDetector, ContentDetector

    assert signature(AdaptiveDetector).parameters["adaptive_threshold"].default == 3
    assert signature(ContentDetector).parameters["threshold"].default == 27


@needs_pyscenedetect
@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_pyscenedetect_finds_what_it_finds_in_the_file(tmp_path, detector):
    """The same frames, read by PySceneDetect itself, which resamples them."""
    import av
    import scenedetect

    frames = [frame for seed in range(3) for frame in shot(seed, 9, 4, 288, 512)]
    with av.open(tmp_path / "shots.mkv", "w") as file:
        stream = file.add_stream("ffv1", rate=25, width=512, height=288, pix_fmt="bgr0")
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame).reformat(format="bgr0")))
        file.mux(stream.encode(None))
    own = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[detector](min_scene_len=0)
    scenes = scenedetect.detect(str(tmp_path / "shots.mkv"), own)
    assert [start.frame_num for start, _ in scenes[1:]] == [9, 18]
    assert list(DETECTORS[detector](None, None).find(frames)) == [9, 18]
    scenedetect.write_scene_list(tmp_path / "cuts.csv", scenes)
    assert read_cuts(tmp_path / "cuts.csv") == [9, 18]


@needs_pyscenedetect
@pytest.mark.parametrize("with_cuts", [True, False])
@pytest.mark.parametrize("starts", [[0], [0, 24, 100]])
def test_cuts_are_read_as_pyscenedetect_writes_them(tmp_path, starts, with_cuts):
    from scenedetect import FrameTimecode, write_scene_list

    times = [FrameTimecode(number, 29.97) for number in [*starts, 120]]
    scenes = list(zip(times, times[1:], strict=False))
    write_scene_list(tmp_path / "cuts.csv", scenes, with_cuts, times[1:-1])
    assert read_cuts(tmp_path / "cuts.csv") == starts[1:]


def test_cuts_after_the_end_are_named(tmp_path, narrow, caplog):
    path = tmp_path / "cuts.txt"
    path.write_text("2\n100\n")
    pipeline = from_file(Pipeline(narrow, QUICK), path)
    video, masks = clip(4)
    result = pipeline(video, masks)
    assert pipeline.effective["scenes"] == {"kind": "file", "path": str(path), "after_end": 1, "cuts": [2]}
    pipeline(video, masks)
    assert caplog.text.count("1 of the 2 cuts in") == 1
    assert np.array_equal(result[2:], Pipeline(narrow, QUICK)(video[2:], masks[2:]))


def test_chunks_of_all_shots_are_reported_by_their_place_in_the_video(narrow, tmp_path):
    path = tmp_path / "cuts.txt"
    path.write_text("3\n5\n")
    pipeline = ladder(from_file(fixed(Pipeline(narrow, QUICK), size=2, overlap=0), path))
    video, masks = clip(9, hole=range(2, 9))
    masks[3:5] = 0
    for _ in range(2):
        pipeline(video, masks)
        assert pipeline.effective["chunking"]["chunks"] == [[0, 2], [1, 3], [5, 7], [7, 9]]
    assert seams_of(pipeline.effective) == [0, 1, 6]
