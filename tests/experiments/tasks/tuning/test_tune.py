"""experiment=tune and tune_replay by their command lines, with runs that are made up: the answer, bounds, going on."""

import json
from pathlib import Path

import pytest
from support.records_fixture import MIB, make_record, write_sweep

from experiments.launch.cli import run
from experiments.record.record import command
from experiments.tasks.tuning import tune

SPACE = ["tune.groups=[attention,precision,raft_scale]", "tune.space.precision=[fp32,amp]"]
"""Eight combinations."""


@pytest.fixture
def machine(monkeypatch):
    """Runs that are made up: what they take by their options, and which were started."""
    started = []

    def run_child(overrides, folder, **options):
        started.append(overrides)
        chosen = dict(item.split("=", 1) for item in overrides if "." not in item.split("=", 1)[0])
        if chosen.get("preset") == "fast":  # as tests/support makes it: what is known of it is its name
            chosen |= {"precision": "amp_all"}
        groups = {group: chosen[group] for group in ("attention", "precision", "raft_scale") if group in chosen}
        seconds = 8 * (0.9 if "sdpa" in groups.values() else 1) * (0.6 if "amp" in str(groups) else 1)
        seconds *= 0.5 if groups.get("raft_scale") == "half" else 1
        psnr = 30.0 if groups.get("raft_scale") == "half" else 50.0
        full = any(item.startswith("measure.baseline") for item in overrides)
        record = make_record(
            seconds=seconds, psnr_hole_db=psnr, peak_bytes=500 * MIB, paired=8 / seconds if full else None, **groups
        )
        record["run"]["command"] = command(overrides)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(record))
        return record

    monkeypatch.setattr(tune, "run_child", run_child)
    monkeypatch.setattr(tune, "has_raft", lambda cfg: True)
    return started


def tuned(folder: Path, *more: str) -> int:
    start = "tune.start=[published]"
    where = f"hydra.run.dir={folder}"
    return run(["experiment=tune", "weights=small", *SPACE, start, "tune.min_psnr_hole_db=40", where, *more])


def test_it_ends_with_the_fastest_within_the_bounds(machine, tmp_path, capsys):
    assert tuned(tmp_path / "run", "data.num_frames=24") == 0
    out = capsys.readouterr().out
    assert "python run.py weights=small data.num_frames=24 attention=sdpa precision=amp" in out
    assert "all combinations are measured" in out
    document = json.loads((tmp_path / "run" / "tune.json").read_text())
    assert len(document["trials"]) == 8 and len(document["finalists"]) == 3
    assert document["command"].endswith("attention=sdpa precision=amp")
    assert (tmp_path / "run" / "tune.png").stat().st_size > 10_000
    short = [item for overrides in machine[:8] for item in overrides if item.startswith("data.num_frames")]
    assert short == ["data.num_frames=24", "data.num_frames=6"] * 8


def test_what_was_measured_is_kept(machine, tmp_path, capsys):
    assert tuned(tmp_path / "run") == 0
    before, count = json.loads((tmp_path / "run" / "tune.json").read_text()), len(machine)
    (tmp_path / "run" / "full" / "attention=sdpa,precision=amp" / "record.json").unlink()
    assert run([f"resume={tmp_path / 'run'}"]) == 0
    assert len(machine) == count + 1
    assert json.loads((tmp_path / "run" / "tune.json").read_text()) == before


def test_a_group_on_the_command_line_is_not_searched(machine, tmp_path, capsys):
    assert tuned(tmp_path / "run", "raft_scale=half", "tune.min_psnr_hole_db=20") == 0
    document = json.loads((tmp_path / "run" / "tune.json").read_text())
    assert set(document["space"]) == {"attention", "precision"}
    assert all("raft_scale=half" in overrides for overrides in machine)


def test_a_preset_takes_part_as_it_is_written(machine, tmp_path, capsys):
    assert tuned(tmp_path / "run", "tune.start=[published,memory_efficient]", "tune.finalists=1") == 0
    assert [next(item for item in overrides if item.startswith("preset")) for overrides in machine[:2]] == [
        "preset=published",
        "preset=memory_efficient",
    ]


@pytest.mark.parametrize("given", [[], ["weights=seeded", "flow_estimator=dis"]], ids=["small", "dis"])
def test_options_for_raft_take_no_part_without_it(machine, monkeypatch, tmp_path, given):
    """Nor do they in a preset, which takes part all the same."""
    monkeypatch.undo()
    monkeypatch.setattr(tune, "run_child", lambda *given, **more: pytest.fail("a run was started"))
    monkeypatch.setattr(tune.Tuning, "_confirm", lambda self, candidates: [])
    monkeypatch.setattr(tune.Search, "measure", lambda self, run: None)
    tuned(tmp_path / "run", *given, "tune.start=[published,memory_efficient]")
    document = json.loads((tmp_path / "run" / "tune.json").read_text())
    assert document["space"]["raft_scale"] == ["full"]


def test_published_can_be_the_fastest_that_fits(machine, tmp_path, capsys):
    """It is timed alone, as its own baseline would be itself."""
    assert tuned(tmp_path / "run", "tune.groups=[attention]", "tune.space.attention=[manual]") == 0
    assert "1.00x" in capsys.readouterr().out
    command = json.loads((tmp_path / "run" / "tune.json").read_text())["command"]
    assert command == "python run.py weights=small preset=published"


def test_where_nothing_fits_it_names_the_nearest(machine, tmp_path, capsys):
    assert tuned(tmp_path / "run", "tune.min_psnr_hole_db=60") == 1
    out = capsys.readouterr().out
    assert "Nothing fits. The nearest, " in out and "breaks min_psnr_hole_db by 10" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tune.minutes=0"], "tune.minutes is 0; give a number of minutes above 0"),
        (["tune.finalists=0"], "tune.finalists is 0"),
        (["tune.max_vram_gb=8"], "tune.max_vram_gb bounds a GPU's memory, and this runs on the CPU; give"),
        (["tune.min_psnr_hole_db=-1"], "tune.min_psnr_hole_db is -1; give a number of 0 or more"),
        (["tune.start=fast"], "tune.start is 'fast'; give a list of presets, as in tune.start=[published,fast]"),
        (["tune.start=[quick]"], "tune.start has 'quick', which is no preset"),
        (["tune.space.attention=[quick]"], "tune.space.attention has 'quick'; give some of"),
        (["+tune.space.atention=[sdpa]", "tune.groups=null"], "tune.space has no group 'atention'"),
        (["tune.groups=[atention]"], "tune.groups is ['atention']; give some of attention, precision"),
        (["preset=fast"], "preset is given beside experiment=tune"),
    ],
)
def test_wrong_input_is_a_sentence(machine, tmp_path, capsys, arguments, says):
    assert tuned(tmp_path / "run", *arguments) == 1
    assert says in capsys.readouterr().err
    assert not machine and not (tmp_path / "run" / "tune.json").exists()


@pytest.fixture
def table(tmp_path):
    records = [
        make_record(
            attention=attention,
            precision=precision,
            raft_scale=scale,
            seconds=8
            * (0.9 if attention == "sdpa" else 1)
            * (0.6 if precision == "amp" else 1)
            * (0.5 + (scale == "full")),
            **{f"variant__{group}": option for group, option in LATER.items()},
        )
        for attention in ("manual", "sdpa")
        for precision in ("fp32", "amp")
        for scale in ("full", "half")
    ]
    return write_sweep(tmp_path / "table", records, parquet=False)


LATER = {
    **{"flow_estimator": "auto", "reuse": "none", "kernels": "torch", "quantization": "none", "runtime": "torch"},
    **{"cuda_graphs": "none", "scenes": "none", "region": "frame"},
}
"""Groups that the golden record may lack."""


def test_a_replay_says_what_the_tuner_saves(table, tmp_path, capsys):
    folder = tmp_path / "replay"
    arguments = ["experiment=tune_replay", f"tune.table={table}", "tune.seeds=12", f"hydra.run.dir={folder}"]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "8 combinations of attention, precision, raft_scale; 8 keep the bounds" in out and "trials fewer" in out
    document = json.loads((folder / "replay.json").read_text())
    assert len(document["trials"]["tuner"]) == len(document["trials"]["chance"]) == 12
    assert max(document["trials"]["tuner"]) <= 8


def test_a_table_with_a_gap_is_refused(table, tmp_path, capsys):
    (table / "3" / "record.json").unlink()
    assert run(["experiment=tune_replay", f"tune.table={table}", f"hydra.run.dir={tmp_path / 'replay'}"]) == 1
    assert "lacks 1 of the combinations of attention, precision, raft_scale, such as" in capsys.readouterr().err
