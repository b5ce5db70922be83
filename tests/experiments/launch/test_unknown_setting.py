"""Sentences on settings and options that do not exist."""

import pytest

from experiments.launch.cli import run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["atention=sdpa"], "there is no setting atention; did you mean attention?"),
        (["measure.min_smples=3"], "there is no setting measure.min_smples; did you mean measure.min_samples"),
        (["measure.qqq=3"], "there is no setting measure.qqq; measure has artifacts, baseline, "),
        (["qqq=3"], "there is no setting qqq; python run.py --help lists all"),
        (["limits.qqq.x=3"], "there is no setting limits.qqq.x; python run.py --help lists all"),
        (
            ["experiment=train", "train.losses.hol=1"],
            "there is no setting train.losses.hol; did you mean train.losses.h",
        ),
        (["-m", "attention=sdpa,manual", "prcision=amp"], "there is no setting prcision; did you mean precision?"),
        (["attention=sdp"], "there is no attention=sdp; did you mean sdpa"),
        (["attention=null"], "there is no attention=null; attention has manual, "),
        (["-m", "precision=amp,3"], "there is no precision=3; precision has amp, "),
        (["dataset=true"], "there is no dataset=true; dataset has davis, folder, "),
        (["attention={a: b}"], "attention takes one of its options, and no settings of its own: manual, "),
        (["attention=qqq"], "there is no attention=qqq; attention has manual, "),
    ],
)
def test_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(sentence) and err.count("\n") == 1
    assert "+" not in err and "/" not in err
