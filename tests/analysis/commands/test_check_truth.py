"""The gate on the truth: the hole's PSNR may fall by 0.2 dB, whatever the reference does."""

import pytest
from support.records_fixture import make_record

LEARNED = dict(weights="pretrained", truth_db=24.0)
AMP = LEARNED | dict(precision="amp", psnr_hole_db=50.0, truth_db=23.95)
ONLY = ("--truth-only",)


@pytest.fixture
def learned(gate):
    assert gate.bless(make_record(**LEARNED), make_record(**AMP)) == 0
    return gate


@pytest.mark.parametrize("options", [(), ONLY])
@pytest.mark.parametrize("lower_db", [0.3, 5.0])
def test_a_fall_is_a_regression(learned, options, lower_db):
    fallen = make_record(**AMP | {"truth_db": 23.95 - lower_db})
    code, out = learned.check(make_record(**LEARNED), fallen, options=options)
    assert code == 1
    expected = f"precision=amp: quality.truth.psnr_hole_db: 23.95 dB -> {23.95 - lower_db:.2f} dB: it has fallen by "
    assert f"  {expected}more than 0.2 dB against the truth\n" in out
    assert out.count("\n  ") == 1, "nothing else is red"


@pytest.mark.parametrize("options", [(), ONLY])
@pytest.mark.parametrize("change_db", [-0.2, -0.1, 0.0, 0.4, 9.0])
def test_a_small_fall_and_any_gain_are_fine(learned, options, change_db):
    changed = make_record(**AMP | {"truth_db": 23.95 + change_db})
    code, out = learned.check(make_record(**LEARNED), changed, options=options)
    assert code == 0, out


def test_the_bound_can_be_chosen(learned):
    changed = make_record(**LEARNED), make_record(**AMP | {"truth_db": 23.0})
    assert learned.check(*changed, options=["--truth-psnr-drop", "1"])[0] == 0
    same = make_record(**LEARNED), make_record(**AMP | {"truth_db": 23.9})
    assert learned.check(*same, options=["--truth-psnr-drop", "0.01"])[0] == 1


def test_no_longer_equal_to_the_truth(gate):
    exact = make_record(**LEARNED, quality__truth__psnr_hole_db=None)
    gate.bless(exact)
    code, out = gate.check(make_record(**LEARNED | {"truth_db": 60.0}), options=ONLY)
    assert code == 1
    assert "quality.truth.psnr_hole_db: identical -> 60.00 dB" in out
    assert gate.check(exact, options=ONLY)[0] == 0


@pytest.mark.parametrize("options", [(), ONLY])
def test_a_variant_that_is_gone(learned, options):
    code, out = learned.check(make_record(**LEARNED), options=options)
    assert code == 1
    assert "precision=amp: status: ok -> absent: it is in the baseline and not in this sweep" in out


@pytest.mark.parametrize("options", [(), ONLY])
def test_a_worse_status(learned, options):
    failed = make_record(**AMP, status="failed", reason="killed")
    code, out = learned.check(make_record(**LEARNED), failed, options=options)
    assert (code, out.count("\n  ")) == (1, 1)
    assert "precision=amp: status: ok -> failed: killed: the status is worse" in out


@pytest.mark.parametrize("options", [(), ONLY])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"truth_db": None}, "the run was not compared with the truth"),
        ({"quality": None, "quality_reason": "too large"}, "too large"),
    ],
)
def test_a_figure_that_is_gone(learned, options, change, why):
    code, out = learned.check(make_record(**LEARNED), make_record(**AMP | change), options=options)
    assert (code, out.count("\n  ")) == (1, 1)
    assert f" dB -> unknown: {why}" in out


@pytest.mark.parametrize("options", [(), ONLY])
def test_other_weights_are_refused(learned, options):
    other = [make_record(**of | {"weights": "seeded"}) for of in (LEARNED, AMP)]
    code, out = learned.check(*other, options=options)
    assert code == 2
    assert "other weights: pretrained weights" in out
    code, out = learned.check(make_record(**LEARNED), other[1], options=options)
    assert code == 1
    assert "precision=amp: status: ok -> absent: this sweep's can't be compared with it: other weights: " in out


def test_other_weights_of_the_same_source_are_refused(learned):
    other = [make_record(**of, weights__fingerprint="f" * 16) for of in (LEARNED, AMP)]
    assert learned.check(*other, options=ONLY)[0] == 2


def test_only_means_nothing_else(learned):
    elsewhere = dict(seconds=20.0, torch="2.16.0", cpu="another")
    records = [make_record(**of | {"psnr_hole_db": 20.0}, **elsewhere) for of in (LEARNED, AMP)]
    code, out = learned.check(*records, options=ONLY, reference_error=9)
    assert (code, out) == (0, "fine: 2 variants compared, performance of 0\n")
    assert learned.check(*records, reference_error=9)[0] == 1


def test_a_baseline_without_the_truth_is_no_gate(gate):
    gate.bless(make_record(**LEARNED | {"truth_db": None}))
    assert gate.check(make_record(**LEARNED))[0] == 0
    code, out = gate.check(make_record(**LEARNED), options=ONLY)
    assert code == 2
    assert "published has no PSNR against the truth in the baseline" in out
