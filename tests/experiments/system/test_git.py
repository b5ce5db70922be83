"""The commit of a checkout, and none outside one."""

import subprocess

from experiments.system import git as module
from experiments.system.git import commit


def test_commit_of_a_checkout_and_outside_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert commit.__wrapped__() == (None, None)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    clean, dirty = commit.__wrapped__()
    assert dirty is False
    assert len(clean) == 12 and int(clean, 16) >= 0
    (tmp_path / "file").write_text("two")
    assert commit.__wrapped__() == (clean, True)
    (tmp_path / "site-packages").mkdir()  # of a virtual environment in another project's checkout
    monkeypatch.setattr(module, "ROOT", tmp_path / "site-packages")
    assert commit.__wrapped__() == (None, None)
