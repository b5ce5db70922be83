"""Drift names where a variant leaves the reference, and where a value stops being finite."""

import copy
import json

import pytest
import torch
from PIL import Image
from support.command_line import SMALLEST

from experiments.data import load, sample_clip
from experiments.tasks.divergence import Drift, Report, markdown, measure_drift
from experiments.tasks.divergence_plot import draw
from propainter import Pipeline, Schedule, build_networks
from variants import UnsupportedError, chunking, kernels, precision, residency

QUICK = Schedule(neighbor_length=2)
BOUND = 0.008
SMALL = {"channels": 32, "depth": 3, "hidden": 64, "mlp_hidden": 98}
UNITS = ["flow", "completion", "propagation", "encoder", "feature_propagation", "soft_split"]
UNITS += ["block_0", "block_1", "block_2", "soft_composition", "decoder", "prediction"]


@pytest.fixture(scope="module")
def small():
    """Networks that are narrow and shallow, with random weights."""
    torch.manual_seed(0)
    return build_networks(flow_completion={"channels": 8}, generator=SMALL)


def drawn_flow(frames, report):
    """In place of RAFT: flow of up to two pixels, the same for every run."""
    random = torch.Generator().manual_seed(0)
    shape = (1, frames.shape[1] - 1, 2, *frames.shape[-2:])
    return tuple(torch.rand(shape, generator=random) * 4 - 2 for _ in range(2))


@pytest.fixture(scope="module")
def clip():
    return load(sample_clip(3, 128, 128))


@pytest.fixture
def drift(small, clip):
    """drift(change) measures what `change`, a function of a pipeline with networks of its own, does."""

    def measured(change=lambda pipeline: None) -> Report:
        reference = precision.fp32(Pipeline(small, QUICK, drawn_flow))
        changed = Pipeline(copy.deepcopy(small), QUICK, drawn_flow)
        changed = change(changed) or changed
        return measure_drift(reference, changed, clip, BOUND)

    return measured


def errors(report: Report, which: str) -> dict[str, float | None]:
    return {unit.unit: getattr(unit, which) for unit in report.units}


@pytest.mark.slow
def test_a_variant_that_changes_nothing_has_no_drift(drift):
    report = drift(residency.lean)
    nothing = dict.fromkeys(UNITS, 0.0)
    assert errors(report, "own") == errors(report, "accumulated") == nothing
    assert list(errors(report, "own")) == UNITS
    assert {unit.dtype for unit in report.units} == {"float32"}
    assert report.first_over_bound("own") is report.first_over_bound("accumulated") is None
    assert report.sentences() == [
        "given the reference's input, no unit is off by more than 0.008",
        "in a run of the variant's own, no unit is off by more than 0.008",
    ]


@pytest.mark.slow
def test_an_error_planted_in_one_block_is_named(drift):
    def planted(pipeline):
        def wrong(module, inputs, output):
            noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
            return output + 0.01 * noise * output.norm() / noise.norm()

        pipeline.networks.generator.transformers.transformer[1].register_forward_hook(wrong)

    report = drift(planted)
    own, accumulated = errors(report, "own"), errors(report, "accumulated")
    assert report.first_over_bound("own").unit == report.first_over_bound("accumulated").unit == "block_1"
    assert own.pop("block_1") == pytest.approx(0.01, rel=1e-3)
    assert set(own.values()) == {0.0}
    before = UNITS[: UNITS.index("block_1")]
    assert all((accumulated[unit] == 0) == (unit in before) for unit in UNITS)
    assert "the first unit off by more than 0.008 is block_1 (1.00e-02)" in markdown(report)


@pytest.mark.slow
def test_an_error_planted_in_a_stage_is_its_own_there_only(drift):
    def planted(pipeline):
        estimate = pipeline.flow_estimator
        pipeline.flow_estimator = lambda frames, report: tuple(1.02 * flow for flow in estimate(frames, report))

    report = drift(planted)
    own, accumulated = errors(report, "own"), errors(report, "accumulated")
    assert own.pop("flow") == accumulated["flow"] == pytest.approx(0.02, rel=1e-3)
    assert set(own.values()) == {0.0}
    assert accumulated["completion"] > 0 and accumulated["prediction"] > 0
    assert report.first_over_bound("own").unit == "flow"


@pytest.mark.slow
def test_a_nan_in_the_decoder_is_named(drift):
    def planted(pipeline):
        pipeline.networks.generator.decoder[4].conv.bias.data[3] = float("nan")

    report = drift(planted)
    for which in ("own", "accumulated"):
        assert report.first_non_finite(which).unit == report.first_over_bound(which).unit == "decoder"
        assert [unit.unit for unit in report.units if which in unit.non_finite] == ["decoder", "prediction"]
    document = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert document["first_non_finite"] == {"own": "decoder", "accumulated": "decoder"}
    assert "| decoder | generation | not finite | not finite | float32 |" in markdown(report)


@pytest.mark.slow
def test_an_overflow_that_tanh_hides_is_still_named(drift):
    def planted(pipeline):
        pipeline.networks.generator.decoder[6].bias.data[0] = float("inf")

    report = drift(planted)
    assert report.first_non_finite("own").unit == "decoder"
    assert report.units[-1].non_finite == []


@pytest.mark.slow
def test_lower_precision_drifts_where_it_is_used(drift):
    report = drift(lambda pipeline: precision.amp(pipeline))
    units = {unit.unit: unit for unit in report.units}
    assert all(units[unit].own == units[unit].accumulated == 0 for unit in ("flow", "completion", "propagation"))
    assert units["encoder"].dtype == "bfloat16" and 1e-4 < units["encoder"].own < 0.05
    for block in ("block_0", "block_1", "block_2"):
        assert 0 < units[block].own < units[block].accumulated


@pytest.mark.slow
def test_the_same_another_way_drifts_by_rounding(small, clip):
    quick = Schedule(raft_iterations=1, neighbor_length=2)
    reference = precision.fp32(Pipeline(small, quick))
    report = measure_drift(reference, kernels.cpu(Pipeline(copy.deepcopy(small), quick)), clip, BOUND)
    own = errors(report, "own")
    assert set(own) == set(UNITS) and all(error < 1e-4 for error in own.values())
    assert own["flow"] > 0 and own["soft_split"] > 0  # it did go another way


@pytest.mark.slow
def test_other_parts_of_the_clip_cannot_be_compared(drift):
    with pytest.raises(UnsupportedError, match="leave chunking"):
        drift(lambda pipeline: chunking.fixed(pipeline, size=2, overlap=1))
    with pytest.raises(UnsupportedError, match="leave residency=streaming out"):
        drift(residency.streaming)


@pytest.mark.slow
def test_blocks_that_never_run_by_themselves_are_not_seen(drift):
    def fused(pipeline):
        transformers = pipeline.networks.generator.transformers

        def forward(tokens, size, plan, window_attention):
            for number, block in enumerate(transformers.transformer):
                tokens = block.forward(tokens, size, plan, slice(number % 2, None, 2), window_attention)
            return tokens

        transformers.forward = forward

    report = drift(fused)
    blocks = {unit: None for unit in UNITS if unit.startswith("block")}
    assert errors(report, "own") == errors(report, "accumulated") == dict.fromkeys(UNITS, 0.0) | blocks
    assert "| block_0 | generation | not seen | not seen |  |" in markdown(report)


def test_the_plot_shows_errors_of_any_size(tmp_path):
    units = [
        Drift("flow", "flow", 0.0, 0.0, "float32"),
        Drift("block_0", "generation", 1e-7, 3.0, "float16"),
        Drift("decoder", "generation", None, None, "float16", ["own", "accumulated"]),
    ]
    draw(Report(BOUND, units).as_json(), "a variant", tmp_path / "drift.png")
    with Image.open(tmp_path / "drift.png") as image:
        assert image.width > 400 and len(image.convert("L").getcolors()) > 20


@pytest.mark.slow
def test_the_command_writes_table_and_plot(bench):
    done = bench("experiment=drift", "precision=amp", *SMALLEST)
    assert done.code == 0, done.err
    document = json.loads((done.folder / "drift.json").read_text())
    assert document["variant"]["precision"] == "amp" and document["bound"] == 0.008
    assert [unit["unit"] for unit in document["units"]][6:14] == [f"block_{number}" for number in range(8)]
    assert (done.folder / "drift.png").stat().st_size > 10_000
    assert (done.folder / "drift.md").read_text().strip() in done.out
    assert not done.leftovers

    wrong = bench("experiment=drift", "task.bound=0", "hydra.run.dir=" + str(done.folder / "wrong"))
    assert wrong.code == 1 and "task.bound is 0; give a relative error above 0" in wrong.err
