"""Files written atomically."""

import pytest

from propainter.io.atomic import atomic_write


def test_a_file_appears_complete(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with atomic_write(target) as partial:
        partial.write_text("first half")
        assert not target.exists() and partial.suffix == ".txt"
    assert target.read_text() == "first half"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_keeps_the_older_file(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("older")
    with pytest.raises(KeyboardInterrupt), atomic_write(target) as partial:
        partial.write_text("newer")
        raise KeyboardInterrupt
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]
