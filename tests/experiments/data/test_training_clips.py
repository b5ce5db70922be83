"""Training clips: functions of seed and number alone, their flow, and folders of frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data.training_clips import (
    ClipOptions,
    FolderClips,
    SyntheticClips,
    Updates,
    training_loader,
    video_folders,
)
from propainter import InputError

OPTIONS = ClipOptions(seed=1, frames=(3, 5), references=2, height=32, width=40, mask_margin=2, dis=True)


def videos(root: Path, lengths: dict[str, int]) -> Path:
    """Folders of frames; a frame's red is its number, its left half is darker."""
    for name, count in lengths.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((48, 60, 3), 10 * number, np.uint8)
            pixels[:, 30:, 2] = 200
            Image.fromarray(pixels).save(root / name / f"{number:05d}.png")
    return root


class TestSynthetic:
    def test_clip_is_a_function_of_its_number(self):
        clips = SyntheticClips(OPTIONS)
        one, again, other = clips[(4, 2, 1)], SyntheticClips(OPTIONS)[(4, 2, 1)], clips[(4, 2, 0)]
        assert one.keys() == again.keys()
        for name, array in one.items():
            assert np.array_equal(array, again[name]), name
        assert not np.array_equal(one["frames"], other["frames"])
        assert one["flow_masks"].shape == other["flow_masks"].shape  # one length in an update

    def test_arrays_fit_together(self):
        lengths = set()
        for update in range(6):
            arrays = SyntheticClips(OPTIONS)[(update, 1, 0)]
            local = len(arrays["flow_masks"])
            lengths.add(local)
            assert arrays["frames"].shape == arrays["truth"].shape == (local + 2, 32, 40, 3)
            assert arrays["masks"].shape == (local + 2, 32, 40)
            for name in ("flow_f", "flow_b", "estimated_f", "estimated_b"):
                assert arrays[name].shape == (local - 1, 2, 32, 40)
                assert arrays[name].dtype == np.float32
            assert (arrays["flow_masks"] >= arrays["masks"][:local]).all()
            assert arrays["flow_masks"].sum() > arrays["masks"][:local].sum()
            outside = arrays["masks"] == 0
            assert np.array_equal(arrays["frames"][outside], arrays["truth"][outside])
        assert lengths == {3, 5}

    def test_flow_joins_the_local_frames(self):
        """The window begins behind the clip's first frame in some; flow has to be the window's."""
        off = []
        for number in range(4):
            arrays = SyntheticClips(ClipOptions(3, (3,), 3, 64, 64))[(number, 1, 0)]
            frames, flow = arrays["truth"].astype(float), arrays["flow_f"]
            y, x = np.mgrid[16:48, 16:48]
            to = np.rint(np.stack([y, x]) + flow[0, ::-1, 16:48, 16:48]).astype(int).clip(0, 63)
            moved = np.abs(frames[1][to[0], to[1]] - frames[0, 16:48, 16:48]).mean()
            off.append(moved < np.abs(frames[2, 16:48, 16:48] - frames[0, 16:48, 16:48]).mean() + 8)
        assert all(off)


class TestParts:
    def test_lie_about_the_hole_with_references_outside(self):
        clips = SyntheticClips(ClipOptions(0, (8, 9), 2, 64, 80, windows=3, window=4, crop=(32, 40)))
        for update in range(3):
            arrays = clips[(update, 1, 0)]
            local = len(arrays["flow_masks"])
            assert len(arrays["frames"]) == local in (8, 9)  # references come from among them
            assert arrays["cuts"].shape == (3, 5 + 4 + 2)
            for top, left, height, width, window, *numbers in arrays["cuts"].tolist():
                assert (height, width, window) == (32, 40, 4)
                assert 0 <= top <= 32 and 0 <= left <= 40
                assert numbers[:4] == list(range(numbers[0], numbers[0] + 4))
                assert not set(numbers[4:]) & set(numbers[:4]) and max(numbers) < local
                middle = arrays["masks"][numbers[2], top : top + height, left : left + width]
                assert middle.any()


class TestFolder:
    def test_windows_of_every_video_with_references_outside(self, tmp_path):
        root = videos(tmp_path / "JPEGImages", {"a": 8, "b": 12, "short": 3})
        clips = FolderClips(root, ClipOptions(0, (3,), 2, 32, 40))
        assert [video.name for video in clips.videos] == ["a", "b"]
        reversed_, mirrored, seen = set(), set(), set()
        for number in range(16):
            arrays = clips[(number, 1, 0)]
            frames = arrays["frames"]
            assert frames.shape == (5, 32, 40, 3)
            assert np.array_equal(frames, arrays["truth"])
            numbers = (frames[:, 0, 0, 0] / 10).round().astype(int).tolist()
            steps = np.diff(numbers[:3])
            assert set(steps) in ({1}, {-1})
            assert not set(numbers[3:]) & set(numbers[:3]) and numbers[3] < numbers[4]
            reversed_.add(steps[0] < 0)
            mirrored.add(bool(frames[0, 0, 0, 2] == 200))
            seen.add(max(numbers) > 7)
            assert 0 < arrays["masks"].mean() < 1
        assert reversed_ == mirrored == seen == {True, False}

    def test_an_epoch_has_every_video_once(self, tmp_path):
        root = videos(tmp_path / "v", {name: 3 + number for number, name in enumerate("abcd")})
        clips = FolderClips(root, ClipOptions(0, (2,), 0, 32, 40))
        for epoch in range(2):
            order = [clips.videos[np.random.default_rng([0, epoch, 2]).permutation(4)[i]].name for i in range(4)]
            assert sorted(order) == list("abcd")

    @pytest.mark.parametrize(
        ("lengths", "says"), [({}, "no folder"), ({"a": 2}, "1 folder"), (None, "not there"), ("file", "a file")]
    )
    def test_folders_without_videos(self, tmp_path, lengths, says):
        root = tmp_path / "root"
        if isinstance(lengths, dict):
            root.mkdir()
            videos(root, lengths)
        elif lengths:
            root.write_text("")
        with pytest.raises(InputError, match=says) as error:
            video_folders(root, 3)
        assert "train.root" in str(error.value) and "\n" not in str(error.value)


class TestUpdates:
    def test_processes_share_the_batch_of_one(self):
        whole = list(Updates(2, 4, 6))
        shares = [list(Updates(2, 4, 6, rank, 3)) for rank in range(3)]
        assert [sum((share[i] for share in shares), []) for i in range(2)] == whole
        assert whole[0] == [(2, 6, index) for index in range(6)]
        assert len(Updates(2, 4, 6)) == 2

    @pytest.mark.slow
    def test_workers_give_the_batches_of_this_process(self):
        options = ClipOptions(0, (2,), 0, 32, 40)
        batches = [list(training_loader(SyntheticClips(options), Updates(0, 3, 2), workers, 1)) for workers in (0, 2)]
        for one, other in zip(*batches, strict=True):
            assert one.keys() == other.keys()
            assert all(one[name].equal(other[name]) for name in one)
        assert batches[0][0]["frames"].shape == (2, 2, 32, 40, 3)


@pytest.mark.slow
def test_a_worker_starts_after_opencv_was_used_here():
    """A forked one hangs in OpenCV, whose threads stayed in the parent."""
    clips = SyntheticClips(ClipOptions(0, (3,), 0, 64, 64, dis=True))
    clips[0, 1, 0]
    batches = list(training_loader(clips, Updates(0, 1, 1), 1, 1))
    assert batches[0]["estimated_f"].shape == (1, 2, 2, 64, 64)
