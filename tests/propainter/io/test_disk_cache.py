"""The cache in a folder: its bound, damaged entries, and files of other runs."""

import os
import time

from propainter.io.disk_cache import ABANDONED_SECONDS, DiskLRUCache


def test_the_least_recently_used_entries_go(tmp_path):
    cache = DiskLRUCache(tmp_path, 100, ".bin")
    for age, key in enumerate("abc"):
        cache.write(key, lambda path: path.write_bytes(b"x" * 40))
        os.utime(cache.path(key), (1000 + age, 1000 + age))
        if key == "b":
            assert cache.read("a", lambda path: path.read_bytes()) == b"x" * 40  # used now
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "c.bin"]


def test_a_damaged_entry_counts_as_absent(tmp_path, caplog):
    cache = DiskLRUCache(tmp_path, 100, ".bin")
    assert cache.read("key", lambda path: path.read_bytes()) is None
    assert caplog.text == ""
    cache.write("key", lambda path: path.write_text("no number"))
    assert cache.read("key", lambda path: int(path.read_text()), damage=(ValueError,)) is None
    assert "key.bin is damaged" in caplog.text


def test_files_being_written_are_left_alone(tmp_path):
    """Another run's temporary file is no entry; one left behind by a run that was killed goes after a day."""
    fresh, abandoned = tmp_path / ".a.12345678.part.bin", tmp_path / ".b.12345678.part.bin"
    for path in (fresh, abandoned):
        path.write_bytes(b"x" * 1000)
    old = time.time() - ABANDONED_SECONDS - 60
    os.utime(abandoned, (old, old))
    folder = DiskLRUCache(tmp_path, 100, ".bin")
    folder.write("key", lambda path: path.write_bytes(b"y" * 50))
    assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, "key.bin"]
