"""The command: what it prints, its files, and what it refuses."""

import csv
import json

import pytest
from support.records_fixture import make_record, write_sweep

from analysis.__main__ import main


@pytest.fixture
def nights(tmp_path):
    """Six nights on two machines; published is slower from the fourth on, on one of them."""
    for device in ("AMD EPYC", "Intel Xeon"):
        for night in range(6):
            slow = 1.5 if device == "AMD EPYC" and night > 2 else 1
            records = [
                make_record(
                    **variant,
                    device=device,
                    seconds=8 * slow * (1 + 0.001 * night),
                    environment__commit=f"{night}abcdef0123",
                    run__started=f"2026-11-0{night + 1}",
                    run__command=f"python run.py <{night}>",
                )
                for variant in ({}, {"attention": "sdpa", "paired": 1.4})
            ]
            write_sweep(tmp_path / "baselines" / device.split()[0].lower() / str(night), records, parquet=False)
    return tmp_path / "baselines"


@pytest.mark.slow
def test_page_points_and_newest_figures(nights, tmp_path, capsys):
    site = tmp_path / "site"
    assert main(["history", str(nights), "-o", str(site)]) == 0
    out = capsys.readouterr().out
    assert out.count("worse: latency of ") == 2 and "AMD EPYC" in out and "Xeon" not in out.split("history:")[0]
    assert "between 2abcdef0, torch 2.15.0 and 3abcdef0, torch 2.15.0" in out
    text = (site / "index.html").read_text()
    assert "Machines side by side" in text and "<svg" in text and "Bonferroni" in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    rows = list(csv.DictReader((site / "history.csv").read_text().splitlines()))
    assert len([row for row in rows if row["figure"] == "latency_s"]) == 24
    assert {row["figure"] for row in rows} >= {"speedup", "peak_mib"}
    entries = json.loads((site / "benchmark.json").read_text())
    assert {entry["unit"] for entry in entries} == {"s", "MiB"}
    assert len({entry["name"] for entry in entries}) == len(entries) == 8
    assert all(set(entry) <= {"name", "unit", "value", "range", "extra"} for entry in entries)
    assert all("5abcdef0" in entry["extra"] and "<5>" in entry["extra"] for entry in entries)


def test_without_a_folder_it_prints_alone(nights, capsys):
    assert main(["history", str(nights / "intel")]) == 0
    assert capsys.readouterr().out == "no step in 2 series with 12 points\n"


@pytest.mark.slow
def test_a_page_made_again_has_no_old_plots(nights, tmp_path):
    site = tmp_path / "site"
    assert main(["history", str(nights), "-o", str(site)]) == 0
    before = len(list((site / "plots").glob("*.svg")))
    (site / "plots" / "mine.svg").write_text("")
    assert main(["history", str(nights / "intel"), "-o", str(site)]) == 0
    after = {path.stem for path in (site / "plots").glob("*.svg")}
    assert "mine" in after and len(after) - 1 == before / 2


def test_wrong_input_is_a_sentence(tmp_path, capsys):
    assert main(["history", str(tmp_path / "nowhere")]) == 2
    write_sweep(tmp_path / "failed", [make_record(status="failed")], parquet=False)
    assert main(["history", str(tmp_path / "failed")]) == 2
    (tmp_path / "file").write_text("")
    write_sweep(tmp_path / "good", [make_record()], parquet=False)
    assert main(["history", str(tmp_path / "good"), "-o", str(tmp_path / "file")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [text in line for text, line in zip(["does not exist", "went well", "which is a file"], lines, strict=True)]
