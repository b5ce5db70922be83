"""Inpainting over a sliding span: the same frames as the whole clip at once, in memory that does not grow with it."""

from dataclasses import astuple, dataclass
from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clips import applied, clip
from support.fake_stages import SHORT, features_of_everything, pair_flow, predict_from_everything
from torch import Tensor, nn

from propainter import Clip, InputError, Observer, Pipeline, Schedule, build_networks
from propainter.inference import plan, streaming_run
from propainter.inference.compositing import Compositor
from propainter.inference.preparation import prepare_masks
from propainter.inference.streaming import Checkpoint, Streaming
from propainter.inference.streaming_run import as_prediction
from propainter.schedule import FLOW_PADDING, PIXEL_PADDING
from propainter.weights import load_seeded
from variants.reuse.generator import DeviceCompositor


class CompletionOverTime(nn.Module):
    """Gives each flow what its whole sub-video had on average, and where in it it was."""

    def forward(self, flow: Tensor, masks: Tensor) -> Tensor:
        numbers = torch.arange(flow.shape[1]).view(1, -1, 1, 1, 1)
        return flow + flow.mean((1, 3, 4), keepdim=True) + numbers * masks / 64


@dataclass
class FakeNetworks:
    """The least that a pipeline asks for."""

    flow_completion = CompletionOverTime()
    generator = SimpleNamespace(residual=False)
    device = torch.device("cpu")


def fake_pipeline(schedule: Schedule, compositor=None, **changes) -> Pipeline:
    pipeline = Pipeline(
        FakeNetworks(),
        schedule,
        flow_estimator=pair_flow,
        feature_provider=features_of_everything,
        predictor=predict_from_everything,
        **changes,
    )
    if compositor is not None:
        pipeline.compositor = compositor
    return pipeline


def fake_clip(count: int, flow_masks: bool = False, seed: int = 0) -> Clip:
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    masks = random.random((count, 16, 16)) < 0.2
    return Clip(frames, masks, masks | (random.random((count, 16, 16)) < 0.1) if flow_masks else None)


schedules = st.builds(
    Schedule,
    neighbor_length=st.integers(2, 12),
    ref_stride=st.integers(1, 12),
    subvideo_length=st.integers(2, 20),
    mask_dilation=st.integers(0, 1),
)


@pytest.fixture(scope="module", autouse=True)
def without_trimming():
    """Giving memory back to the system takes longer than everything else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming_run, "malloc_trim", lambda: None)
        yield


class TestAnySchedule:
    @settings(max_examples=25, deadline=None)
    @given(schedules, st.integers(2, 50), st.booleans(), st.sampled_from([None, DeviceCompositor]))
    def test_gives_what_the_whole_clip_at_once_gives(self, schedule, count, flow_masks, compositor):
        """Also that nothing is read after it was let go, which would be a KeyError."""
        given_clip = fake_clip(count, flow_masks)
        published = fake_pipeline(schedule, compositor).run(given_clip)
        streamed = fake_pipeline(schedule, compositor, stage_runner=Streaming({})).run(given_clip)
        assert np.array_equal(streamed, published)

    @pytest.mark.parametrize("options", [(10, 10, 12), (4, 3, 7), (12, 5, 20)])
    def test_holds_no_more_of_a_longer_video(self, options):
        schedule = Schedule(1, *options, mask_dilation=0)
        held = []
        for count in (110, 220):
            stats = {}
            fake_pipeline(schedule, stage_runner=Streaming(stats)).run(fake_clip(count))
            held.append(stats)
        # What is kept ahead of the windows (a sub-video of each stage, and their paddings), and behind them (what they
        # and the next sub-video of propagation look back to).
        ahead = 2 * schedule.subvideo_length + PIXEL_PADDING + FLOW_PADDING
        behind = max(PIXEL_PADDING, schedule.subvideo_length + schedule.neighbor_length)
        assert held[0]["held_frames"] <= ahead + behind
        assert held[1]["held_frames"] == held[0]["held_frames"]
        assert held[1]["held_bytes"] == pytest.approx(held[0]["held_bytes"], rel=0.05)

    def test_frames_wait_for_few_windows(self):
        counts = []

        def counting(frames, masks):
            counts.append(len(frames))
            return Compositor(frames, masks)

        schedule = Schedule(1, 10, 10, 80, mask_dilation=0)
        fake_pipeline(schedule, counting, stage_runner=Streaming({})).run(fake_clip(90))
        assert max(counts) == streaming_run.WINDOWS_TOGETHER * 5 + 6  # each window begins 5 frames after the one before


def parts_of(given_clip: Clip):
    """The clip's parts one by one; the length of a generator is unknown."""
    flow_masks = repeat(None) if given_clip.flow_masks is None else given_clip.flow_masks
    yield from zip(given_clip.frames, given_clip.masks, flow_masks, strict=False)


def groups(pipeline: Pipeline, given_clip: Clip, count: int | None, after: Checkpoint | None = None):
    size = given_clip.frames.shape[1:3]
    return list(Streaming({}).groups(pipeline, count, size, parts_of(given_clip), after))


class TestAfterACheckpoint:
    @settings(max_examples=15, deadline=None)
    @given(schedules, st.integers(2, 60), st.data())
    def test_the_rest_is_the_same_after_any_group(self, schedule, count, data):
        given_clip = fake_clip(count, flow_masks=data.draw(st.booleans()))
        pipeline = fake_pipeline(schedule)
        whole = groups(pipeline, given_clip, count)
        number = data.draw(st.integers(0, len(whole) - 1))
        checkpoint = whole[number][1]
        assert checkpoint.finished == sum(len(images) for images, _ in whole[: number + 1])
        rest = groups(pipeline, given_clip, count, checkpoint)
        assert len(rest) == len(whole) - number - 1
        for (images, after), (expected, expected_after) in zip(rest, whole[number + 1 :], strict=True):
            assert np.array_equal(images, expected)
            assert astuple(after)[:3] == astuple(expected_after)[:3]
            assert np.array_equal(after.unfinished, expected_after.unfinished)

    @settings(max_examples=8, deadline=None)
    @given(schedules, st.integers(2, 70), st.data())
    def test_each_step_left_is_one_of_the_whole_run(self, schedule, count, data):
        """The same frames in each batch: else a network's rounding could differ."""
        pipeline, given_clip, flows, completions = fake_pipeline(schedule), fake_clip(count), [], []

        def estimator(frames, report):
            flows.append(frames.double().sum().item())
            return pair_flow(frames, report)

        def completion(flow, masks):
            completions.append(flow.double().abs().sum().item())
            return CompletionOverTime()(flow, masks)

        pipeline.flow_estimator = estimator
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline.networks, "flow_completion", completion)
            whole = groups(pipeline, given_clip, count)
            number, before = data.draw(st.integers(0, len(whole) - 1)), (list(flows), list(completions))
            flows.clear()
            completions.clear()
            groups(pipeline, given_clip, count, whole[number][1])
        for steps, all_steps in zip((flows, completions), before, strict=True):
            assert steps == all_steps[len(all_steps) - len(steps) :]

    def test_leaves_out_what_only_the_groups_before_read(self):
        read, pipeline = [], fake_pipeline(SHORT)

        def estimator(frames, report):
            read.append(frames.shape[1])
            return pair_flow(frames, report)

        pipeline.flow_estimator = estimator
        whole = groups(pipeline, fake_clip(60), 60)
        everything = sum(read)
        read.clear()
        groups(pipeline, fake_clip(60), 60, whole[-2][1])
        assert sum(read) < everything * 0.6

    def test_only_its_images_are_as_large_as_the_video(self):
        (_, checkpoint), *_ = groups(fake_pipeline(SHORT), fake_clip(30), 30)
        assert checkpoint.unfinished.shape == (3, 16, 16, 3)


class TestUnknownLength:
    @settings(max_examples=40, deadline=None)
    @given(schedules, st.integers(2, 70), st.booleans())
    def test_gives_what_a_known_length_gives(self, schedule, count, flow_masks):
        given_clip = fake_clip(count, flow_masks)
        pipeline = fake_pipeline(schedule)
        known, unknown = (groups(pipeline, given_clip, given_count) for given_count in (count, None))
        assert len(known) == len(unknown)
        for (images, _), (expected, _) in zip(unknown, known, strict=True):
            assert np.array_equal(images, expected)

    @pytest.mark.parametrize("count", range(2, 33))
    def test_gives_it_at_every_length_around_the_borders(self, count):
        """SHORT has sub-videos of 6 frames: lengths within and one beyond each, with and without their paddings."""
        given_clip = fake_clip(count)
        known, unknown = (groups(fake_pipeline(SHORT), given_clip, given_count) for given_count in (count, None))
        assert np.array_equal(*(np.concatenate([images for images, _ in run]) for run in (known, unknown)))

    @pytest.mark.parametrize("options", [(10, 10, 12), (4, 3, 7), (12, 5, 20)])
    def test_holds_no_more_of_an_endless_video(self, options):
        schedule = Schedule(1, *options, mask_dilation=0)
        held = []
        for count in (110, 220, None):
            given_clip, stats = fake_clip(count or 300), {}
            images = Streaming(stats).frames(fake_pipeline(schedule), count, (16, 16), parts_of(given_clip))
            assert len(list(images)) == len(given_clip.frames)
            held.append(stats["held_frames"])
        assert held[0] == held[1] <= held[2] <= held[0] + schedule.neighbor_length

    def test_reads_no_further_than_a_known_length_needs_but_for_a_window(self):
        read = []
        for count in (200, None):
            parts = parts_of(fake_clip(200))
            next(Streaming({}).groups(fake_pipeline(SHORT), count, (16, 16), parts))
            read.append(200 - len(list(parts)))
        assert read[0] <= read[1] <= read[0] + SHORT.neighbor_length

    def test_windows_are_announced_again_and_again(self, monkeypatch):
        monkeypatch.setattr(plan, "COMING_WINDOWS", 4)
        given_clip = fake_clip(60)
        known, unknown = (groups(fake_pipeline(SHORT), given_clip, given_count) for given_count in (60, None))
        assert np.array_equal(*(np.concatenate([images for images, _ in run]) for run in (known, unknown)))

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_frames(self, count):
        with pytest.raises(InputError, match=rf"the clip has {count} frame\(s\); give at least 2"):
            groups(fake_pipeline(SHORT), fake_clip(count), None)


class TestOnlyWhatIsThere:
    def run(self, parts, count: int = 30) -> list[np.ndarray]:
        return list(Streaming({}).frames(fake_pipeline(SHORT), count, (16, 16), parts))

    def parts(self, count: int = 30):
        given_clip = fake_clip(count)
        return zip(given_clip.frames, given_clip.masks, [None] * count, strict=True)

    def test_frames_come_before_the_last_is_read(self):
        asked = []

        def parts():
            for part in self.parts(60):
                asked.append(part)
                yield part

        images = Streaming({}).frames(fake_pipeline(SHORT), 60, (16, 16), parts())
        assert next(images).shape == (16, 16, 3)
        assert len(asked) < 40

    def test_a_clip_that_ends_too_soon(self):
        with pytest.raises(InputError, match="ends after 20 frames of 30"):
            self.run(self.parts(20))

    def test_a_frame_of_another_size(self):
        with pytest.raises(InputError, match=r"frame 0 is uint8 \[8, 16, 3\]; give uint8 \[16, 16, 3\]"):
            self.run((frame[:8], mask, flow_mask) for frame, mask, flow_mask in self.parts())

    def test_a_size_that_is_no_multiple_of_8(self):
        clips = [part[:, :, :14] for part in fake_clip(20)[:2]]
        published = fake_pipeline(SHORT).run(Clip(*clips))
        assert np.array_equal(fake_pipeline(SHORT, stage_runner=Streaming({})).run(Clip(*clips)), published)


@pytest.mark.parametrize("compositor", [Compositor, DeviceCompositor])
def test_a_frame_carried_over_stays_as_it_is(compositor):
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    made = compositor(np.zeros_like(values), np.ones((1, 16, 16), np.uint8))
    made.add([0], as_prediction(values, torch.device("cpu")))
    assert np.array_equal(made.result(), values)


def test_every_stage_ends_at_its_last_step():
    steps: dict[str, list[tuple[int, int]]] = {}

    class Recorder(Observer):
        def progress(self, stage, done, total):
            steps.setdefault(stage, []).append((done, total))

    pipeline = fake_pipeline(SHORT, stage_runner=Streaming({}), observer=Recorder())
    pipeline.run(fake_clip(30))
    assert {stage: progress[-1] for stage, progress in steps.items()} == {
        "flow": (30, 30),
        "completion": (5, 5),
        "propagation": (5, 5),
        "generation": (15, 15),
    }
    assert all(progress == sorted(progress) for progress in steps.values())


def test_what_a_stage_or_a_window_or_a_direction_of_completion_leaves_is_given_back_before_the_next(monkeypatch):
    steps: list[str] = []

    def predictor(*args):
        predict = predict_from_everything(*args)
        return lambda window: steps.append("window") or predict(window)

    monkeypatch.setattr(streaming_run, "malloc_trim", lambda: steps.append("given back"))
    pipeline = fake_pipeline(SHORT, stage_runner=Streaming({}))
    pipeline.predictor, complete, stage = predictor, pipeline.networks.flow_completion, pipeline.stage
    pipeline.stage = lambda *args: steps.append("stage") or stage(*args)
    pipeline.networks.flow_completion = lambda *args: steps.append("direction") or complete(*args)
    pipeline.run(fake_clip(30))
    followed = list(zip(steps, steps[1:], strict=False))
    assert followed.count(("window", "given back")) == steps.count("window") == 15  # each asks for its features first
    assert followed.count(("given back", "direction")) == steps.count("direction") > 2
    assert followed.count(("given back", "stage")) == steps.count("stage") > 10
    assert steps.count("given back") == sum(steps.count(name) for name in ("stage", "window", "direction"))


class TestOtherGroups:
    @pytest.mark.slow
    def test_chunks_are_streamed(self):
        results = []
        for streamed in (False, True):
            pipeline = fake_pipeline(SHORT)
            if streamed:
                applied(pipeline, "residency=streaming")
            applied(pipeline, "chunking=fixed", "chunking.size=12")
            results.append(pipeline.clip_splitter(pipeline.run, fake_clip(30)))
        assert np.array_equal(*results)
        assert pipeline.effective["residency"]["held_frames"] == 12


@pytest.fixture(scope="module")
def long_clip() -> tuple[np.ndarray, np.ndarray]:
    return clip(10, 128, 128)


@pytest.fixture(scope="module")
def published(networks, long_clip) -> np.ndarray:
    return Pipeline(networks, SHORT)(*long_clip)


def check_equal(result: np.ndarray, reference: np.ndarray, masks: np.ndarray, least_db: float) -> None:
    hole = prepare_masks(masks > 0, masks.shape[1:], dilation=4) > 0
    assert np.array_equal(result[~hole], reference[~hole])
    error = np.square(result[hole].astype(float) - reference[hole]).mean()
    assert error < 255**2 / 10 ** (least_db / 10)
    assert (reference[hole] > 0).mean() > 0.5


class TestRealNetworks:
    @pytest.mark.slow
    def test_equal_to_published(self, networks, long_clip, published):
        pipeline = applied(Pipeline(networks, SHORT), "residency=streaming")
        check_equal(pipeline(*long_clip), published, long_clip[1], least_db=65)
        assert pipeline.effective["residency"]["kind"] == "streaming"
        assert pipeline.effective["residency"]["held_bytes"] > 128 * 128 * 4 * 10

    @pytest.mark.slow
    def test_with_other_groups(self, long_clip, published):
        """Without the work that is done twice, and with the choices that it keeps."""
        networks = build_networks()
        load_seeded(networks)
        pipeline = Pipeline(networks, SHORT)
        for option in ("attention=sdpa", "correlation=on_demand", "reuse=exact", "raft_scale=auto"):
            applied(pipeline, option)
        applied(pipeline, "residency=streaming")
        check_equal(pipeline(*long_clip), published, long_clip[1], least_db=55)
        assert pipeline.effective["reuse"]["features"]["made"] == 10

    @pytest.mark.slow
    def test_in_half_precision(self, networks, long_clip):
        video, masks = (part[:7] for part in long_clip)
        results = []
        for options in (["precision=amp"], ["precision=amp", "residency=streaming"]):
            networks = build_networks()
            load_seeded(networks)
            pipeline = Pipeline(networks, SHORT)
            for option in options:
                applied(pipeline, option)
            results.append(pipeline(video, masks))
        check_equal(results[1], results[0], masks, least_db=50)
