"""The pipeline with residual networks: the generator's own `forward`, and the variants that take its parts apart."""

import numpy as np
import pytest
import torch
from support.clips import applied
from support.reusing import clip, hole_psnr

from propainter import Observer, Pipeline, Schedule, build_networks
from propainter.inference.preparation import prepare_masks
from propainter.models.dis import MASK_MARGIN
from propainter.schedule import plan_windows

SHORT = Schedule(neighbor_length=4, ref_stride=3)
FRAMES = 8


@pytest.fixture(scope="module")
def residual():
    """Narrow networks of the small architecture, whose predictions are no trifle."""
    torch.manual_seed(0)
    networks = build_networks(
        "small",
        flow_completion=dict(channels=4),
        generator=dict(channels=16, hidden=32, depth=2, heads=2, mlp_hidden=49),
    )
    with torch.no_grad():
        networks.flow_completion.upsample[-1].conv.weight.mul_(20)
        networks.generator.decoder[-1].weight.mul_(200)
    return networks


@pytest.fixture(scope="module")
def published(residual) -> np.ndarray:
    return Pipeline(residual, SHORT)(*clip(FRAMES))


class Recorder(Observer):
    """Keeps what the stages made."""

    def __init__(self) -> None:
        self.seen: dict[str, list[dict[str, torch.Tensor]]] = {}

    def tensors(self, stage, **tensors):
        self.seen.setdefault(stage, []).append({name: x.clone() for name, x in tensors.items()})


@pytest.mark.slow
def test_each_prediction_is_the_generators_own(residual):
    recorder = Recorder()
    pipeline = Pipeline(residual, SHORT, observer=recorder)
    assert pipeline.flow_mask_margin == MASK_MARGIN
    pipeline(*clip(FRAMES))
    (completed,), (propagated,) = recorder.seen["completion"], recorder.seen["propagation"]
    holes = prepare_masks(clip(FRAMES)[1] > 0, (128, 136), SHORT.mask_dilation)
    masks = torch.from_numpy(holes)[None, :, None].float()
    windows = plan_windows(FRAMES, SHORT.neighbor_length, SHORT.ref_stride, SHORT.subvideo_length)
    predictions = [made["prediction"] for made in recorder.seen["generation"]]
    assert len(predictions) == len(windows) > 2
    for window, prediction in zip(windows, predictions, strict=True):
        first, last = window.local[0], window.local[-1]
        flows = completed["flow_f"][:, first:last], completed["flow_b"][:, first:last]
        frames, hole, remaining = (
            x[:, window.frames] for x in (propagated["frames"], masks, propagated["remaining_masks"])
        )
        with torch.inference_mode():
            expected = residual.generator(frames, flows, hole, remaining, len(window.local))[0]
            plain = residual.generator.generate(
                residual.generator.encode(frames, hole, remaining),
                flows,
                *(x[:, : len(window.local)] for x in (hole, remaining)),
            )[0]
        assert torch.allclose(prediction, expected, atol=1e-5)
        assert (plain - expected).abs().max() > 0.1


@pytest.mark.slow
def test_the_prediction_counts(residual, published):
    """Else the comparisons below would be of fused frames alone."""
    silent = build_networks("small", generator=dict(channels=16, hidden=32, depth=2, heads=2, mlp_hidden=49))
    silent.flow_completion = residual.flow_completion
    torch.nn.init.zeros_(silent.generator.decoder[-1].weight)
    assert hole_psnr(Pipeline(silent, SHORT)(*clip(FRAMES)), published, clip(FRAMES)[1]) < 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "least_db"),
    [
        ("residency=streaming", 200),
        ("residency=offload", 200),
        ("residency=lean", 200),
        ("reuse=exact", 60),
        ("reuse=features", 60),
    ],
)
def test_variants_give_what_published_gives(residual, published, override, least_db):
    video, masks = clip(FRAMES)
    output = applied(Pipeline(residual, SHORT), override)(video, masks)
    assert hole_psnr(output, published, masks) >= least_db  # 200: bit-equal


@pytest.mark.slow
def test_chunks_are_inpainted_as_clips(residual):
    video, masks = clip(FRAMES)
    pipeline = applied(Pipeline(residual, SHORT), "chunking=fixed", "chunking.size=5", "chunking.overlap=2")
    output = pipeline(video, masks)
    for part, own in ((slice(0, 5), 0), (slice(3, 8), -1)):
        assert np.array_equal(output[own], Pipeline(residual, SHORT)(video[part], masks[part])[own])
