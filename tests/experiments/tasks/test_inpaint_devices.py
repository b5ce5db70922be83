"""What a clip over several devices writes while it runs."""

import av
import numpy as np
import pytest
from hydra.utils import instantiate
from support.clips import black, small_clip
from support.configs import composed
from support.devices import SHORT
from support.narrow import narrow_networks

from experiments.data import load
from experiments.errors import LostProcessError
from experiments.tasks.inpaint_devices import FramesInOrder, chosen_devices, delivering, write_meanwhile
from propainter import InputError, Pipeline
from propainter.inference.distributed import SharedRunner
from propainter.inference.shots import Shot, inpaint_shots
from variants import chunking


class TwoParts(SharedRunner):
    """Hands on the first five frames, black in the hole, then the rest."""

    error: Exception | None = None

    def __call__(self, pipeline, part):
        result = black(part)
        self.on_frames(result[:5])
        if self.error is not None:
            raise self.error
        self.on_frames(result[5:])
        return result


@pytest.fixture
def source():
    return instantiate(composed("data.num_frames=60", "data.height=128", "data.width=136").data)


@pytest.fixture
def runner():
    return TwoParts()


@pytest.fixture
def write(source, runner, tmp_path):
    def run():
        pipeline, output = Pipeline(narrow_networks(), SHORT, stage_runner=runner), composed().output
        return write_meanwhile(pipeline, runner, load(source), tmp_path, source, output)

    return run


def frames_in(path) -> int:
    with av.open(path) as file:
        return sum(1 for _ in file.decode(video=0))


def test_the_video_is_written(write, tmp_path):
    first, video, waited_s = write()
    assert frames_in(tmp_path / "inpainted.mp4") == video["output"]["frames"] == len(first.result) == 60
    assert waited_s >= 0 and not (tmp_path / "inpainted.partial.mp4").exists()


def test_an_error_leaves_what_was_finished(write, runner, tmp_path, caplog):
    runner.error = LostProcessError("the process on cuda:1 was killed")
    with pytest.raises(LostProcessError):
        write()
    assert frames_in(tmp_path / "inpainted.partial.mp4") == 5
    assert "the frames finished so far are in" in caplog.text
    assert not (tmp_path / "inpainted.mp4").exists()


def test_a_device_in_place_of_a_list_is_named():
    with pytest.raises(InputError, match="devices is 'cuda:0'; give a list such as"):
        chosen_devices(composed("devices=cuda:0"))


def test_frames_of_chunks_are_not_handed_on(runner):
    pipeline = Pipeline(narrow_networks(), SHORT, stage_runner=runner)
    assert delivering(pipeline) is runner
    assert delivering(chunking.fixed(pipeline, size=5, overlap=1)) is None


@pytest.mark.parametrize(
    "shots",
    [
        [],
        [Shot(0, 9, slice(0, 4), slice(0, 4))],
        [Shot(2, 5, slice(1, 3), slice(0, 4)), Shot(6, 9, slice(0, 4), slice(1, 4))],
        [Shot(4, 5, slice(1, 3), slice(1, 3))],  # of one frame, inpainted as two
    ],
)
def test_shots_come_in_order_with_the_frames_between(shots):
    whole, given = small_clip(9), []
    pipeline = Pipeline(narrow_networks())
    order = FramesInOrder(pipeline, whole.frames, given.append)

    def inpaint(shot, part):
        pipeline.shot = shot
        result = black(part)
        for begin in range(0, len(result), 2):
            order.add(result[begin : begin + 2])
        return result

    expected = inpaint_shots(inpaint, whole, shots)
    order.finish()
    assert np.array_equal(given, expected)
