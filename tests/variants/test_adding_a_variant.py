"""A new variant is one function and one YAML, in a folder of the user's own; a new group is three lines more."""

import shutil
from copy import deepcopy

import pytest
from hydra.utils import instantiate
from support.command_line import ROOT, SMALLEST
from support.configs import CONF, composed
from support.records_fixture import make_record

import variants
from analysis.records.schema import validation_error
from experiments.record.record import variant
from propainter import Pipeline

CODE = """
import torch
from variants.attention import use_kernel

def mean_of_values(q, k, v):
    return v.mean(dim=-2, keepdim=True).expand_as(q)

def mean(pipeline):
    return use_kernel(pipeline, mean_of_values)

def rounded(pipeline, digits):
    def note(module, inputs, output):
        return torch.round(output, decimals=digits)
    pipeline.networks.generator.encoder.register_forward_hook(note)
    pipeline.effective["rounded"] = digits
    return pipeline
"""


@pytest.mark.slow
def test_an_attention_kernel_and_a_precision_policy_from_a_folder(bench, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "variants_of_mine.py").write_text(CODE)
    for group, option, extra in (("attention", "mean", ""), ("precision", "rounded", "digits: 1\n")):
        folder = tmp_path / "mine" / "conf" / group
        folder.mkdir(parents=True)
        text = f"_target_: variants_of_mine.{option}\n_partial_: true\n{extra}"
        (folder / f"{option}.yaml").write_text(text)
    done = bench(
        f"hydra.searchpath=[file://{tmp_path}/mine/conf]",
        *("attention=mean", "precision=rounded"),
        *SMALLEST,
        env={"PYTHONPATH": str(tmp_path / "mine")},
    )
    assert done.code == 0, done.err
    variant, effective = done.record["variant"], done.record["effective"]
    assert (variant["attention"], variant["precision"]) == ("mean", "rounded")
    assert effective["rounded"] == 1
    assert effective["attention"]["ops"] == ["mean.float32"]
    assert done.record["quality"]["psnr_hole_db"] < 60
    assert not list((ROOT / "conf" / "attention").glob("mean*"))


def test_a_group_is_three_lines_and_its_options(tmp_path, monkeypatch, narrow):
    """A line in `variants.GROUPS`, conf/config.yaml and conf/preset/published.yaml each; nothing else knows groups."""
    monkeypatch.setitem(variants.GROUPS, "tint", "none")
    conf = shutil.copytree(CONF, tmp_path / "conf")
    for file, before, line in (
        ("config.yaml", "  - fallback: none\n", "  - tint: none\n"),
        ("preset/published.yaml", "  - override /fallback: none\n", "  - override /tint: none\n"),
    ):
        text = (conf / file).read_text()
        assert before in text
        (conf / file).write_text(text.replace(before, before + line))
    (conf / "tint").mkdir()
    (conf / "tint" / "none.yaml").write_text("_target_: variants.as_published\n_partial_: true\n")
    (conf / "tint" / "red.yaml").write_text("_target_: variants_of_mine.rounded\n_partial_: true\ndigits: 1\n")
    (tmp_path / "variants_of_mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)

    cfg = composed("tint=red", conf=conf)
    described = variant(cfg, cfg.hydra.runtime.choices)
    assert described["id"].startswith("tint=red#")
    assert (described["tint"], described["options"]["tint"]) == ("red", {"digits": 1})
    pipeline = variants.apply(Pipeline(deepcopy(narrow)), {group: instantiate(cfg[group]) for group in variants.GROUPS})
    assert pipeline.effective["rounded"] == 1
    assert validation_error(make_record() | {"variant": described}) is None
    assert composed("tint=red", "preset=published", conf=conf).tint._target_ == "variants_of_mine.rounded"
    assert composed("preset=published", conf=conf).tint._target_ == "variants.as_published"
