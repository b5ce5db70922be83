"""The loss to the truth: of an evaluation of the same variant, else of the row's own clip."""

import pytest
from support.evaluation_fixture import make_evaluation, make_variant
from support.records_fixture import make_record

from analysis.records.evaluation import from_document
from analysis.results import truth
from analysis.results.truth import loss_of, rows_of_evaluation, unused

AMP = dict(precision="amp", weights="small", truth_db=23.9)


def evaluation(*variants, **changes):
    return from_document(make_evaluation(*variants, **changes), "there")


class TestLossOf:
    @pytest.fixture
    def row(self, pooled):
        """row(**changes) is a pooled row of one record."""
        return lambda **changes: next(iter(pooled(make_record(**changes)).values()))

    def test_the_interval_s_upper_end_of_an_evaluation(self, row):
        loss = loss_of(row(**AMP), [evaluation()])
        assert loss.mean_db == pytest.approx(0.02)
        assert loss.interval_db == pytest.approx([-0.01, 0.05]) and loss.bound_db == pytest.approx(0.05)
        assert loss.text == (
            "loses at most 0.050 dB to the truth (upper end of the 95% interval, the mean is 0.020 dB; evaluation of "
            "20 videos of synthetic)"
        )

    def test_the_mean_without_an_interval(self, row):
        loss = loss_of(row(**AMP), [evaluation(videos=2)])
        assert loss.bound_db == pytest.approx(0.02)
        assert "evaluation of 2 videos of synthetic, without an interval" in loss.text

    def test_the_baseline_loses_nothing(self, row):
        loss = loss_of(row(weights="small"), [evaluation()])
        assert (loss.bound_db, loss.text[:13]) == (0.0, "loses nothing")

    def test_the_clip_alone_without_an_evaluation(self, row):
        loss = loss_of(row(**AMP), [])
        assert loss.bound_db == pytest.approx(0.1) and "(this clip alone, without an interval)" in loss.text

    @pytest.mark.parametrize(
        "other",
        [
            dict(weights="pretrained"),
            dict(weights="small", architecture="published"),
            dict(device="H100", device_type="cuda"),
        ],
    )
    def test_an_evaluation_of_others_is_not_used(self, row, other):
        mine = row(**AMP)
        assert "this clip alone" in loss_of(mine, [evaluation(**other)]).text
        (sentence,) = unused([mine], [evaluation(**other)])
        assert sentence.startswith("The evaluation on synthetic, 20 videos, 320 frames of 432x240 is not used here: it")

    def test_weights_that_nobody_knows_match_none(self, row):
        unknown = evaluation(weights__fingerprint=None)
        mine = row(**AMP, weights__fingerprint=None)
        assert "this clip alone" in loss_of(mine, [unknown]).text
        assert unused([mine], [unknown])[0].endswith("its weights are not known.")

    def test_another_baseline_or_another_variant(self, row):
        document = make_evaluation()
        document["baseline"] = document["variants"][1]["id"]
        found = from_document(document, "there")
        assert "this clip alone" in loss_of(row(**AMP), [found]).text
        assert unused([row(**AMP)], [found])[0].endswith("its baseline is precision=amp, not published.")
        sdpa = row(attention="sdpa", weights="small")
        assert unused([sdpa], [evaluation()])[0].endswith("it has none of these variants.")

    def test_other_settings_are_another_variant(self, row):
        variant = make_variant(chunking="fixed", options={"chunking": {"size": 5}}, difference_db=-0.3)
        of = dict(chunking="fixed", weights="small", truth_db=23.9)
        mine = row(options={"chunking": {"size": 50}}, **of)
        assert "this clip alone" in loss_of(mine, [evaluation(variant)]).text

    def test_another_schedule_of_both_is_said(self, row):
        mine = row(options={"schedule": {"raft_iterations": 12}}, **AMP)
        assert loss_of(mine, [evaluation()]).text.endswith("synthetic, with another schedule)")
        short = {"schedule": {"raft_iterations": 5}}
        alone = evaluation(make_variant(precision="amp", options=short, difference_db=-1.0, half_width_db=0.1))
        assert "this clip alone" in loss_of(mine, [alone]).text, "its baseline has another schedule"

    def test_the_worst_of_several(self, row):
        worse = evaluation(make_variant(precision="amp", difference_db=-0.4, half_width_db=0.1), dataset__name="davis")
        for found in ([worse, evaluation()], [evaluation(), worse]):
            assert loss_of(row(**AMP), found).bound_db == pytest.approx(0.5)

    def test_what_is_not_known_has_a_reason(self, row):
        failed = evaluation(make_variant(precision="amp", difference_db=0.1, failed=2))
        assert loss_of(row(**AMP), [failed]).unknown == "it failed on 2 of 20 videos of the evaluation"
        assert loss_of(row(**AMP), [failed, evaluation()]).bound_db is None
        unmeasured = evaluation(make_variant(precision="amp"))
        assert "no difference of PSNR in the hole" in loss_of(row(**AMP), [unmeasured]).unknown
        assert "is not known" in loss_of(row(**AMP | {"truth_db": None}), []).unknown
        seeded = AMP | {"weights": "seeded", "architecture": "published"}
        assert loss_of(row(**seeded), [evaluation(weights="seeded")]).unknown == truth.NOT_LEARNED
        assert loss_of(row(**seeded), []).unknown == truth.NOT_LEARNED


class TestRows:
    def test_doubtful_speeds(self):
        baseline, amp, _ = rows_of_evaluation(evaluation(disturbed=["the system swapped: 90 MiB"]))
        assert "doubt.speedup" not in baseline and "was disturbed while it was timed" in amp["doubt.speedup"]
        assert "swapped" in amp["doubt.memory"]
        _, amp, _ = rows_of_evaluation(evaluation(videos=2))
        assert amp["doubt.speedup"] == "precision=amp was timed on too few videos for an interval"

    def test_namesakes_are_told_apart(self):
        sizes = [
            make_variant(chunking="fixed", options={"chunking": {"size": size}}, difference_db=-0.1) for size in (5, 50)
        ]
        labels = [row["variant.label"] for row in rows_of_evaluation(evaluation(*sizes))]
        assert labels == ["published", "chunking=fixed (chunking.size=5)", "chunking=fixed (chunking.size=50)"]
