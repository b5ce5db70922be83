"""The command: a record for each video and variant, a table, stopped and resumed; bad videos are rows."""

import json
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command_line import start_narrow

from analysis.records.load import load_evaluations
from experiments.data import load
from experiments.data.datasets import synthetic
from experiments.quality.published_metrics import frame_psnr_db
from experiments.tasks.evaluation.judge import file_name

TINY = [
    *("experiment=evaluate", "weights=seeded", "schedule.raft_iterations=1", "quality.lpips=false", "dataset.clips=2"),
    *("dataset.num_frames=2", "dataset.height=128", "dataset.width=128", "hydra.run.dir=run"),
]


def finished(cwd: Path, *arguments: str) -> tuple[int, str, str]:
    process = start_narrow(cwd, *arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.mark.slow
def test_records_table_and_figures(tmp_path):
    code, out, err = finished(
        tmp_path, *TINY, "evaluate.presets=[published,{precision: amp_bf16},{cuda_graphs: manual}]"
    )
    assert code == 0, err
    run = tmp_path / "run"
    document = json.loads((run / "evaluation.json").read_text())
    published, bf16, graphs = document["variants"]
    (read,) = load_evaluations(run)
    assert read.baseline.id == published["id"] and read.variants[2].failed == 2, "the analysis reads it"
    assert (published["videos"], bf16["videos"], graphs["videos"], graphs["failed"]) == (2, 2, 0, 2)
    assert [row["video"] for row in document["rows"]] == [*["synthetic 0"] * 3, *["synthetic 1"] * 3]
    assert bf16["minus_baseline"]["psnr_db"]["videos"] == 2 and bf16["minus_baseline"]["psnr_db"]["mean"] != 0
    assert document["protocol"]["neighbor_length"] == 20 and document["dataset"]["frames"] == 4
    assert "needs a CUDA device" in document["rows"][2]["reason"] and document["rows"][2]["status"] == "unsupported"
    assert (run / "evaluation.md").read_text().strip() in out
    records = sorted(path.relative_to(run / "records").parts[1] for path in run.rglob("record.json"))
    assert records == [*[file_name("synthetic 0")] * 3, *[file_name("synthetic 1")] * 3]
    record = json.loads((run / "records" / published["id"] / file_name("synthetic 1") / "record.json").read_text())
    assert record["run"]["task"] == "evaluate" and record["evaluation"]["average"] == "float"
    assert record["evaluation"]["flow"] is None  # seeded weights give none
    # Outside the hole the picture is the truth's: what was measured can't be worse than a hole of noise.
    clip = load(synthetic(2, 2, 128, 128).videos["synthetic 1"]())
    worst = np.mean(
        [frame_psnr_db(np.where(m[..., None], 255 - t, t), t) for m, t in zip(clip.masks, clip.truth, strict=True)]
    )
    assert record["evaluation"]["metrics"]["psnr_db"] > worst


@pytest.mark.slow
def test_stopped_and_resumed(tmp_path):
    process = start_narrow(tmp_path, *TINY, "dataset.clips=300")
    until = time.monotonic() + 120
    while len(list(tmp_path.rglob("record.json"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    command = err.splitlines()[-1].removeprefix("interrupted: ")
    assert command.endswith(" does the rest")
    done = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}
    assert not (tmp_path / "run" / "evaluation.json").exists()
    code, out, err = finished(tmp_path, shlex.split(command)[2], f"dataset.clips={len(done) + 1}")
    assert code == 0, err
    assert out.count(", found") == len(done)
    assert all(path.read_bytes() == content for path, content in done.items())
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["ok"] * (len(done) + 1)


@pytest.mark.slow
def test_a_bad_video_is_a_row_and_is_made_again(tmp_path):
    for name, count in (("bad", 2), ("good", 2)):
        for top in ("frames", "masks"):
            (tmp_path / "set" / top / name).mkdir(parents=True)
        for t in range(count):
            pixels = np.random.default_rng(t).integers(0, 256, (128, 136, 3), dtype=np.uint8)
            mask = np.zeros((128, 136), np.uint8)
            mask[40:60, 40:60] = 255
            Image.fromarray(pixels).save(tmp_path / "set" / "frames" / name / f"{t}.png")
            Image.fromarray(mask).save(tmp_path / "set" / "masks" / name / f"{t}.png")
    broken = tmp_path / "set" / "frames" / "bad" / "1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    folder = ["experiment=evaluate", "dataset=folder", "dataset.root=set", *TINY[1:4], "hydra.run.dir=run"]
    code, out, err = finished(tmp_path, *folder)
    assert code == 0 and "bad  published  failed: " in out and "| published | 1 (1 failed) |" in out, err
    broken.write_bytes(whole)
    code, out, err = finished(tmp_path, *folder)
    assert code == 0 and out.count(", found") == 1 and "| published | 2 |" in out, err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dataset=davis"], "dataset.root is missing"),
        (["evaluate.average=half"], "evaluate.average is 'half'; give float or uint8"),
        (["evaluate.clips=0"], "evaluate.clips is 0; give a whole number of at least 1"),
    ],
)
def test_bad_settings_end_in_a_sentence(tmp_path, arguments, sentence):
    code, out, err = finished(tmp_path, "experiment=evaluate", "weights=seeded", *arguments)
    assert code == 1 and sentence in err and "Traceback" not in err
    assert not list(tmp_path.rglob("evaluation.json"))
