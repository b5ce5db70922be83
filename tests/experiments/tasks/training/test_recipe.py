"""Recipes: settings that make no sense, the learning rate, and what may differ where a training goes on."""

from dataclasses import replace

import pytest
from support.configs import CONF
from support.training import composed, recipe

from experiments.tasks.training.recipe import FREE, Recipe
from propainter import InputError

PUBLISHED = ["completion", "generator"]


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    return recipe()


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "train").glob("*.yaml")))
def test_every_recipe_is_valid(name, tmp_path):
    root = "train.root=videos" if name in PUBLISHED else "train.seed=1"
    found = Recipe.of(composed(tmp_path, f"train={name}", root).train)
    assert found.as_dict() == Recipe(**found.as_dict()).as_dict()
    if name in PUBLISHED:
        assert (found.steps, found.batch, list(found.betas)) == (700_000, 8, [0.0, 0.99])
        assert (found.height, found.width, found.frames) == (240, 432, [10])


def test_published_learning_rates(tmp_path):
    completion, generator = (Recipe.of(composed(tmp_path, f"train={name}", "train.root=x").train) for name in PUBLISHED)
    factors = [completion.learning_rate_factor(step) for step in (0, 299_999, 300_000, 400_000, 500_000, 699_999)]
    assert factors == pytest.approx([1, 1, 0.2, 0.04, 0.008, 0.0016])
    assert completion.learning_rate == 5e-5
    assert [generator.learning_rate_factor(step) for step in (399_999, 400_000)] == pytest.approx([1, 0.1])
    assert (generator.learning_rate, generator.references, generator.losses["adversarial"]) == (1e-4, 6, 0.01)


def test_cosine_rises_then_falls_to_nothing(tiny):
    cosine = replace(tiny, schedule="cosine", warmup=9, steps=100)
    factors = [cosine.learning_rate_factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] > 0.97
    assert factors[100] == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(network="gan"), "generator"),
        (dict(data="film"), "folder or synthetic"),
        (dict(data="folder", root=None), "train.root=FOLDER"),
        (dict(data="folder", root="x", estimate="exact"), "synthetic"),
        (dict(batch=2, devices=3), "multiple of 3"),
        (dict(batch=0), "at least 1"),
        (dict(frames=[1]), "at least 2"),
        (dict(frames=[]), "list"),
        (dict(frames="10"), "list"),
        (dict(height=33), "multiple of 8"),
        (dict(height=64, estimate="raft"), "at least 128"),
        (dict(references=2), "generator"),
        (dict(losses={"hole": 1, "colour": 1}), "colour"),
        (dict(losses={"hole": -1}), "at least 0"),
        (dict(losses={"hole": 0}), "above 0"),
        (dict(discriminator_from=3), "generator"),
        (dict(optimizer="sgd"), "adam"),
        (dict(betas=[0.9]), "two numbers"),
        (dict(betas=[0.9, 1.0]), "below 1"),
        (dict(learning_rate=0), "above 0"),
        (dict(learning_rate="1e-4"), "above 0"),
        (dict(schedule="linear"), "cosine"),
        (dict(ema=1.0), "between 0 and 1"),
        (dict(clip_norm=0), "above 0"),
        (dict(precision="fp8"), "bf16"),
        (dict(checkpointing=True), "blocks"),
        (dict(workers=-1), "at least 0"),
        (dict(save_minutes=0), "above 0"),
        (dict(widths=3), "channels"),
        (dict(decode_references="no"), "true or false"),
        (dict(milestones=[0]), "at least 1"),
    ],
)
def test_settings_that_make_no_sense(tiny, change, says):
    with pytest.raises(InputError, match=says) as error:
        replace(tiny, **change).check()
    assert "train." in str(error.value) and "\n" not in str(error.value)


def test_what_may_differ_where_a_training_goes_on(tiny):
    earlier = tiny.as_dict()
    for name in FREE:
        replace(tiny, **{name: "another"}).check_continues(earlier)
    for change in (dict(seed=1), dict(steps=9), dict(losses={"hole": 2.0}), dict(frames=[3])):
        with pytest.raises(InputError, match=f"train.{next(iter(change))} is"):
            replace(tiny, **change).check_continues(earlier)
    replace(tiny, schedule="constant", steps=9).check_continues({**earlier, "schedule": "constant"})


def test_an_unknown_setting_is_named():
    with pytest.raises(InputError, match="train.colour is no setting"):
        recipe("+train.colour=red")
    with pytest.raises(InputError, match="there is no recipe"):
        Recipe.of(None)
