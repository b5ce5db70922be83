"""The commit of a checkout, by git or by a variable where git can't say."""

import subprocess

import pytest

from experiments.system import git as module
from experiments.system.git import VARIABLE, Commit, commit
from propainter import InputError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository of one commit, as the project's folder, and no variable."""
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def test_commit_of_a_checkout_and_outside_one(checkout, monkeypatch):
    clean, dirty, source = commit.__wrapped__()
    assert (dirty, source) == (False, "git")
    assert len(clean) == 12 and int(clean, 16) >= 0
    monkeypatch.setenv(VARIABLE, "f" * 40)  # git knows better
    (checkout / "file").write_text("two")
    assert commit.__wrapped__() == (clean, True, "git")
    monkeypatch.delenv(VARIABLE)
    (checkout / "site-packages").mkdir()  # of a virtual environment in another project's checkout
    monkeypatch.setattr(module, "ROOT", checkout / "site-packages")
    assert commit.__wrapped__() == Commit(None, None, None)


@pytest.mark.parametrize("obstacle", ["git refuses", "no git", "no .git"])
def test_a_variable_names_the_commit_where_git_cannot(checkout, monkeypatch, obstacle):
    if obstacle == "git refuses":
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    elif obstacle == "no git":
        monkeypatch.setenv("PATH", str(checkout))
    else:
        (checkout / ".git").rename(checkout / "moved")
    assert commit.__wrapped__() == Commit(None, None, None)
    monkeypatch.setenv(VARIABLE, "0123456789abcdef")
    assert commit.__wrapped__() == ("0123456789ab", None, VARIABLE)
    monkeypatch.setenv(VARIABLE, "0123456-dirty")
    assert commit.__wrapped__() == ("0123456", True, VARIABLE)
    for wrong in ("main", "012345", "0" * 41, "0123456 "):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(InputError, match=rf"{VARIABLE} is '{wrong}'; give the 7 to 40 hex digits"):
            commit.__wrapped__()
