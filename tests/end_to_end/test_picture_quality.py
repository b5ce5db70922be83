"""What variants cost in quality, with weights that paint: PSNR in the hole against the truth beside published's."""

import json
from pathlib import Path

import pytest
from support.run_many import run_many

CLIP = ["weights=small", "data.num_frames=24", "data.height=128", "data.width=160"]
ONCE = [
    *("measure.min_samples=0", "measure.max_samples=0", "measure.max_warmups=0", "measure.flops=false"),
    *("quality.lpips=false", "measure.reference=false", "flow_cache=disk"),
]

VARIANTS = {
    "whole": [],
    "chunks": ["chunking=fixed", "chunking.size=12", "chunking.overlap=2"],
    "region": ["region=hole"],
    "scenes": ["scenes=file", "scenes.path={cuts}"],
    "amp": ["precision=amp"],
    "streaming": ["residency=streaming"],
}


@pytest.fixture(scope="module")
def psnr_db(tmp_path_factory) -> dict[str, float]:
    """PSNR in the hole against the truth, by variant."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "cuts.txt").write_text("12\n")
    lines = [
        [*CLIP, *(item.format(cuts=folder / "cuts.txt") for item in own), *ONCE]
        + [f"hydra.run.dir={folder / name}", f"cache.dir={folder / 'cache'}"]
        for name, own in VARIANTS.items()
    ]
    for ran in run_many(lines, folder):
        assert ran.code == 0, ran.text
    return {name: truth(folder / name) for name in VARIANTS}


def truth(folder: Path) -> float:
    return json.loads((folder / "record.json").read_text())["quality"]["truth"]["psnr_hole_db"]


@pytest.mark.slow
def test_the_cup_is_gone(psnr_db):
    assert psnr_db["whole"] > 20


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "cost_db"), [("chunks", 1.0), ("region", 1.0), ("amp", 0.2), ("streaming", 0.01)])
def test_costs_little(psnr_db, variant, cost_db):
    assert psnr_db[variant] > psnr_db["whole"] - cost_db


@pytest.mark.slow
def test_a_cut_where_there_is_none_takes_away_what_was_seen_elsewhere(psnr_db):
    assert psnr_db["scenes"] < psnr_db["chunks"]
