"""experiment=train_benchmark and experiment=train_loading: rows, comparisons and texts."""

import json

import pytest
from support.training import TINY, TINY_GENERATOR, composed

from experiments.tasks.training import benchmark, loading

OWN = ["train.data=synthetic", "train.estimate=exact", "train.mask_margin=0", "train.frames=[3]", "train.batch=1"]


def ran(module, folder, *overrides: str) -> tuple[str, dict, str]:
    """The status, and what stands in both files."""
    name = f"train_{module.__name__.rpartition('.')[2]}"
    cfg = composed(folder, *overrides, experiment=name)
    settings = {key: value for key, value in cfg.task.items() if not key.startswith("_")}
    status = module.run(cfg, **settings)
    written, table = folder / f"{name}.json", folder / f"{name}.md"
    if not written.exists():
        return status, {}, ""
    return status, json.loads(written.read_text()), table.read_text()


@pytest.mark.slow
def test_combinations_are_compared_with_the_first(tmp_path):
    few = ["task.checkpointing=[none,all]", "task.precision=[fp32,bf16,fp16]", "task.attention=[manual,sdpa]"]
    sizes = ["task.updates=1", "task.rounds=2", "train.references=1"]
    status, document, text = ran(benchmark, tmp_path, *TINY_GENERATOR, *OWN, *few, *sizes)
    assert status == "ok"
    rows = {(row["checkpointing"], row["precision"], row["attention"]): row for row in document["rows"]}
    assert len(rows) == 12
    first = rows["none", "fp32", "manual"]
    assert (first["ratio"], first["gradient_difference"]) == (None, None)
    assert rows["all", "fp32", "manual"]["gradient_difference"] == 0
    assert rows["all", "fp32", "manual"]["loss"] == first["loss"]
    assert rows["none", "fp32", "sdpa"]["gradient_difference"] < 1e-5
    assert 1e-5 < rows["none", "bf16", "manual"]["gradient_difference"] < 1
    assert len(first["samples_s"]) == 2 and first["peak_bytes"] > 0
    ratio = rows["none", "fp32", "sdpa"]["ratio"]
    assert ratio["ci95"][0] <= ratio["median"] <= ratio["ci95"][1]
    unsupported = rows["all", "fp16", "sdpa"]
    assert (unsupported["status"], unsupported["update_s"], unsupported["ratio"]) == ("unsupported", None, None)
    assert text.count("\n| ") == 1 + 1 + len(rows)  # header, rule, rows


@pytest.mark.parametrize("change", ["task.precision=[fp8]", "task.attention=[]", "task.rounds=0", "train.estimate=dis"])
def test_settings_that_make_no_sense(tmp_path, change, caplog):
    status, document, _ = ran(benchmark, tmp_path, *TINY_GENERATOR, *OWN, change)
    assert (status, document) == ("failed", {})
    assert "give" in caplog.text and "Traceback" not in caplog.text


@pytest.mark.slow
def test_loading_measures_each_number_of_workers(tmp_path):
    options = ["task.workers=[0,1]", "task.updates=2", "task.rounds=2", "train.batch=1", "train.frames=[3]"]
    status, document, text = ran(loading, tmp_path, *TINY, *options)
    assert status == "ok"
    assert [row["workers"] for row in document["rows"]] == [0, 1]
    for row in document["rows"]:
        assert row["clips_per_s"] > 0 and 0 <= row["waiting_share"] < 1 and len(row["waiting_shares"]) == 2
    assert "wait" in text and text.count("\n| ") == 4


def test_enough_workers():
    rows = [{"workers": number, "waiting_share": share} for number, share in ((4, 0.0), (0, 0.4), (1, 0.04))]
    assert loading.enough(rows) == 1
    assert loading.enough(rows[1:2]) is None
