"""A disk that is full at the moment of the record: a real write of a real run that fails when half of it is done."""

import json
import resource

import pytest
from PIL import Image
from support.command_line import SMALLEST, picture_folder

pytestmark = pytest.mark.slow

SPACE_BYTES = 200_000

TALKATIVE = """
from variants.attention import manual

def talkative(pipeline, note):
    return manual(pipeline)
"""


def full() -> None:
    """In a process and those that it starts: a file that would grow over `SPACE_BYTES` fails there, by an OSError."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SPACE_BYTES, hard))


@pytest.fixture
def talkative(tmp_path):
    """Arguments and environment for `attention=talkative`: published, with a record as large as that of no other."""
    folder = tmp_path / "mine" / "conf" / "attention"
    folder.mkdir(parents=True)
    (tmp_path / "mine" / "talk.py").write_text(TALKATIVE)
    note = "x" * 2 * SPACE_BYTES
    (folder / "talkative.yaml").write_text(f"_target_: talk.talkative\n_partial_: true\nnote: {note}\n")
    # Hydra's own copy of the config would be as large.
    arguments = [f"hydra.searchpath=[file://{tmp_path}/mine/conf]", "hydra.output_subdir=null"]
    return arguments, {"PYTHONPATH": str(tmp_path / "mine")}


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"run.log"}


def test_of_a_single_run(bench, talkative, tmp_path):
    """A clip without a hole, since only the record matters."""
    arguments, env = talkative
    frames = picture_folder(tmp_path / "frames")
    Image.new("L", (128, 128)).save(tmp_path / "mask.png")
    data = ["data=folder", f"data.frames={frames}", f"data.masks={tmp_path}/mask.png"]
    done = bench(*arguments, "attention=talkative", *data, env=env, preexec_fn=full)
    assert done.code == 1
    said = [line for line in done.err.splitlines() if "the record could not be written" in line]
    assert len(said) == 1
    assert "free some space" in said[0]
    assert "Traceback" not in done.err
    assert names(done.folder) == {"inpainted.mp4"}

    again = bench(*arguments, "attention=talkative", *data, env=env)
    assert (again.code, again.record["status"]) == (0, "ok")
    assert len(again.record["variant"]["options"]["attention"]["note"]) == 2 * SPACE_BYTES


def test_of_one_run_of_a_sweep(bench, talkative):
    arguments, env = talkative
    sweep = ["-m", *arguments, "attention=talkative,manual", *SMALLEST, "measure.reference=false", "report=false"]
    done = bench(*sweep, env=env, preexec_fn=full)
    assert done.code == 1
    assert done.err.count("the record could not be written") == 1
    assert "resume=" in done.err
    assert "Traceback" not in done.err
    first, second = done.out.splitlines()[1:3]
    assert "failed  the record could not be written" in first
    assert second.startswith("2/2  published#")
    assert names(done.folder / "0") == {"inpainted.mp4", "preview.png", "output.log"}
    assert done.leftovers == []
    # The run itself had said so before the sweep's process did.
    assert "the record could not be written" in (done.folder / "0" / "output.log").read_text()

    again = bench(*sweep, f"resume={done.folder}", env=env)
    assert again.code == 0, again.err + again.out
    records = [json.loads((done.folder / name / "record.json").read_text()) for name in "01"]
    assert [record["status"] for record in records] == ["ok", "ok"]
    assert records[0]["variant"]["attention"] == "talkative"
    assert again.out.count("kept, ok") == 1
