"""Flow at a smaller size: the size used, and a translation that keeps its value."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.flows import flows_of, noise, option

from propainter import InputError, Pipeline, Schedule
from variants.raft_scale import ScaledFlow, flow_size, scale_by_pixels, scaled

QUICK = Schedule(raft_iterations=2)
ONCE = Schedule(raft_iterations=1)


CYCLES = 2


def moving_waves(height: int, width: int, motion: tuple[float, float]) -> torch.Tensor:
    """Two frames, [1, 2, 3, H, W]: a wave along x in red and along y in green, which move by `motion` pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    frames = [
        torch.stack(
            [
                torch.cos(2 * math.pi * CYCLES * (x - motion[0] * t) / width),
                torch.cos(2 * math.pi * CYCLES * (y - motion[1] * t) / height),
                torch.zeros(height, width),
            ]
        )
        for t in (0, 1)
    ]
    return torch.stack(frames)[None]


def measured_translation(frames: torch.Tensor, report) -> tuple[torch.Tensor, torch.Tensor]:
    """An estimator that reads the motion of `moving_waves`, at any size, from the phases of the waves."""
    height, width = frames.shape[-2:]
    motion = []
    for channel, other, length in ((0, 1, width), (1, 2, height)):
        profile = frames[0, :, channel].double().mean(dim=other)
        place = (torch.arange(length) + 0.5) * (2 * math.pi * CYCLES / length)
        phase = (profile * torch.exp(1j * place)).sum(-1).angle()
        turn = (phase[1] - phase[0] + math.pi) % (2 * math.pi) - math.pi
        motion.append(turn * length / (2 * math.pi * CYCLES))
    flow = torch.stack(motion).float().view(1, 1, 2, 1, 1).expand(1, 1, 2, height, width)
    return flow, -flow


class TestScale:
    @settings(max_examples=40, deadline=None)
    @given(
        size=st.tuples(st.integers(16, 70), st.integers(16, 70)),
        motion=st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
        scale=st.sampled_from([1 / 2, 1 / 4, 1 / 8]),
    )
    def test_a_translation_keeps_its_value(self, size, motion, scale):
        """Within 0.001 pixels of the video; single precision leaves 0.0002."""
        height, width = (8 * side for side in size)
        effective = {}
        seen = []

        def inner(frames, report):
            seen.append(list(frames.shape[-2:]))
            return measured_translation(frames, report)

        flow_f, flow_b = ScaledFlow(inner, scale, effective)(moving_waves(height, width, motion))
        assert flow_f.shape == flow_b.shape == (1, 1, 2, height, width)
        expected = torch.tensor(motion).view(1, 1, 2, 1, 1)
        assert (flow_f - expected).abs().max() < 0.001
        assert (flow_b + expected).abs().max() < 0.001
        assert effective["raft_scale"]["flow_size"] == seen[0]

    @settings(max_examples=200, deadline=None)
    @given(height=st.integers(16, 600), width=st.integers(16, 600), scale=st.floats(0.01, 1))
    def test_flow_size(self, height, width, scale):
        height, width = 8 * height, 8 * width
        used, (h, w) = flow_size(height, width, scale)
        assert scale <= used <= 1
        assert h % 8 == w % 8 == 0
        assert 128 <= h <= height
        assert 128 <= w <= width
        assert abs(h - height * used) <= 4 + 1e-6
        assert abs(w - width * used) <= 4 + 1e-6
        assert used == scale or min(h, w) == 128

    @pytest.mark.parametrize(
        ("size", "scale", "expected"),
        [
            ((240, 432), 1 / 2, (128, 232)),
            ((240, 432), 1 / 8, (128, 232)),
            ((480, 856), 1 / 2, (240, 432)),
            ((1080, 1920), 1 / 4, (272, 480)),
            ((2160, 3840), 1 / 8, (272, 480)),
            ((128, 1024), 1 / 2, (128, 1024)),
        ],
    )
    def test_sides_by_hand(self, size, scale, expected):
        """Multiples of 8, the shorter side never under 128."""
        assert flow_size(*size, scale)[1] == expected

    @pytest.mark.parametrize(
        ("size", "scale"),
        [
            ((1024, 1024), 1),
            ((1024, 1032), 1 / 2),
            ((1080, 1920), 1 / 2),
            ((1088, 1920), 1 / 4),
            ((2160, 3840), 1 / 4),
            ((2160, 3848), 1 / 8),
        ],
    )
    def test_auto_goes_by_pixels(self, size, scale):
        assert scale_by_pixels(*size) == scale

    def test_full_size_is_the_inner_estimator(self):
        frames, answer = noise(2), (object(), object())

        def inner(given, report):
            assert given is frames
            return answer

        assert ScaledFlow(inner, 1)(frames) is answer
        assert ScaledFlow(inner, None)(frames) is answer

    @pytest.mark.parametrize("name", ["half", "quarter", "eighth", "auto"])
    def test_in_effect(self, networks, name):
        """256x280 with RAFT itself: really computed on smaller frames, and reported so; full size for `auto`."""
        asked = {"half": 1 / 2, "quarter": 1 / 4, "eighth": 1 / 8, "auto": 1}[name]
        small = [256, 280] if name == "auto" else [128, 136] if name == "half" else [128, 144]
        pipeline = option("raft_scale", name)(Pipeline(networks, QUICK))
        inner, seen = pipeline.flow_estimator.inner, []
        pipeline.flow_estimator.inner = lambda frames, report: seen.append(frames.shape[-2:]) or inner(frames, report)
        flow_f, flow_b = flows_of(pipeline, noise(2, 256, 280))
        assert flow_f.shape == flow_b.shape == (1, 1, 2, 256, 280)
        stats = pipeline.effective["raft_scale"]
        assert stats["asked"] == asked
        assert stats["flow_size"] == list(seen[0])
        assert (stats["flow_size"] == [256, 280]) == (name == "auto")
        assert stats["flow_size"][0] == small[0]
        assert stats["ratio"] == [256 / stats["flow_size"][0], 280 / stats["flow_size"][1]]
        json.dumps(pipeline.effective)

    @pytest.mark.parametrize("scale", [0, -1, 1.5, math.nan, "half", True])
    def test_a_scale_that_makes_no_sense(self, networks, scale):
        with pytest.raises(InputError, match=r"raft_scale\.scale is "):
            scaled(Pipeline(networks), scale)
