"""A new variant is one function and one YAML, in a folder of the user's own."""

import pytest
from support.command_line import ROOT, SMALLEST

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
