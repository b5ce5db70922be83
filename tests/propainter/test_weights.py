"""Finding, downloading and reading checkpoints."""

import functools
import http.server
import pickle
import threading
import time

import pytest
import torch

from propainter import InputError, build_networks, published_state
from propainter.models.networks import NETWORKS
from propainter.weights import (
    FILES,
    UnreachableError,
    download,
    empty_networks,
    find,
    fingerprint,
    load_pretrained,
    load_seeded,
    read_checkpoint,
    search_folders,
)

NOWHERE = "http://127.0.0.1:9/"
"""Refuses every connection."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch hub cache, and no other weight folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PROPAINTER_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="session")
def released(networks, tmp_path_factory):
    """The three files as released, with seeded tensors in them."""
    folder = tmp_path_factory.mktemp("released")
    for network, file in FILES.items():
        prefix = "module." if network == "raft" else ""
        state = {prefix + name: tensor for name, tensor in published_state(networks, network).items()}
        torch.save(state, folder / file)
    return folder


@pytest.fixture
def server(released):
    """The released files over HTTP: its address, and what was asked for."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        asked: list[str] = []

        def log_message(self, *args):
            self.asked.append(self.path)

    Handler.asked = []
    handler = functools.partial(Handler, directory=str(released))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", Handler.asked
        running.shutdown()


def test_folders_are_searched_in_order(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("PROPAINTER_WEIGHTS", str(tmp_path / "environment"))
    folders = search_folders(tmp_path / "given")
    assert [folder.name for folder in folders] == ["given", "environment", "weights", "checkpoints"]
    assert folders[-1] == hub
    for folder in reversed(folders):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.pth").touch()
        assert find("a.pth", folders) == folder / "a.pth"


def test_files_on_disk_are_loaded_without_a_download(hub, released, networks):
    fresh = build_networks()
    load_pretrained(fresh, released, url=NOWHERE)
    assert fingerprint(fresh) == fingerprint(networks)


@pytest.mark.slow
def test_missing_files_are_downloaded_into_the_hub_cache_once(hub, server, networks):
    url, asked = server
    for _ in range(2):
        fresh = build_networks()
        load_pretrained(fresh, url=url)
        assert fingerprint(fresh) == fingerprint(networks)
    assert len(asked) == 3
    assert sorted(path.name for path in hub.iterdir()) == sorted(FILES.values())


def test_unreachable_says_where_to_put_the_files_and_soon(hub):
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=r"raft-things.pth .* \./weights, .*PROPAINTER_WEIGHTS"):
        load_pretrained(build_networks(), url=NOWHERE)
    assert time.monotonic() - start < 10


def test_a_server_that_never_answers_counts_as_unreachable(hub, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: time.sleep(60))
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no answer within 0.2 s"):
        download("http://example.invalid/raft-things.pth", hub, connect_seconds=0.2)
    assert time.monotonic() - start < 5


def test_a_download_that_breaks_off_leaves_nothing(hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 400)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises(UnreachableError):
            download(f"http://127.0.0.1:{running.server_port}/half.pth", hub)
        running.shutdown()
    assert list(hub.iterdir()) == []


def test_a_page_in_place_of_the_file_is_not_kept(hub, tmp_path):
    """A login page, say, that answers every address."""
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / FILES["raft"]).write_text("<html>log in first</html>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(pages))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises(UnreachableError, match="can't be read as a checkpoint|no plain checkpoint"):
            load_pretrained(build_networks(), url=f"http://127.0.0.1:{running.server_port}/")
        running.shutdown()
    assert list(hub.iterdir()) == []


@pytest.mark.slow
def test_fingerprint_sees_every_network_and_a_single_value():
    first, second = build_networks(), build_networks()
    for networks in (first, second):
        load_seeded(networks)
    assert fingerprint(first) == fingerprint(second)
    with torch.no_grad():
        second.raft.update_block.flow_head.conv2.bias[0] += 1e-6
    assert fingerprint(first) != fingerprint(second)


@pytest.mark.slow
def test_networks_that_were_not_drawn_are_the_same_once_loaded():
    drawn, empty = build_networks(), empty_networks()
    for networks in (drawn, empty):
        load_seeded(networks)
    for name in NETWORKS:
        wanted, got = (getattr(networks, name).state_dict() for networks in (drawn, empty))
        assert wanted.keys() == got.keys()
        assert all(torch.equal(wanted[key], got[key]) for key in wanted)


def test_others_are_drawn_as_before():
    empty_networks()
    assert torch.empty(100).normal_().unique().numel() == 100


class RunsCode:
    def __reduce__(self):
        return print, ("this must never be printed",)


class TestReadCheckpoint:
    def test_truncated(self, released, tmp_path):
        whole = (released / FILES["generator"]).read_bytes()
        path = tmp_path / "ProPainter.pth"
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="truncated or no checkpoint"):
            read_checkpoint(path)

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"<html>404</html>", b"PK\x03\x04" + b"\0" * 50])
    def test_no_checkpoint(self, content, tmp_path):
        path = tmp_path / "ProPainter.pth"
        path.write_bytes(content)
        with pytest.raises(InputError, match="ProPainter.pth"):
            read_checkpoint(path)

    @pytest.mark.parametrize("way", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
    def test_code_is_never_run(self, way, tmp_path, capfd):
        path = tmp_path / "ProPainter.pth"
        way({"weight": RunsCode()}, path)
        with pytest.raises(InputError, match="never run|can't be read"):
            read_checkpoint(path)
        assert "must never be printed" not in capfd.readouterr().out

    def test_something_else_saved_by_torch(self, tmp_path):
        path = tmp_path / "ProPainter.pth"
        torch.save([torch.zeros(3)], path)
        with pytest.raises(InputError, match="holds a list"):
            read_checkpoint(path)

    def test_of_another_network_names_the_file(self, hub, released, tmp_path):
        mixed = tmp_path / "mixed"
        mixed.mkdir()
        for network, file in FILES.items():
            source = FILES["raft"] if network == "generator" else file
            (mixed / file).symlink_to(released / source)
        with pytest.raises(InputError, match=r"mixed/ProPainter.pth: these are not weights of the generator"):
            load_pretrained(build_networks(), mixed, url=NOWHERE)


@pytest.mark.slow
def test_scale_of_seeded_flow():
    plain, small = build_networks(), build_networks()
    load_seeded(plain)
    load_seeded(small, flow_scale=0.5)
    changed = [
        name
        for (name, a), b in zip(plain.raft.state_dict().items(), small.raft.state_dict().values(), strict=True)
        if not torch.equal(a, b)
    ]
    assert changed == ["update_block.flow_head.conv2.weight", "update_block.flow_head.conv2.bias"]
    head, halved = (networks.raft.update_block.flow_head.conv2.weight for networks in (plain, small))
    assert torch.equal(head, 2 * halved)
    with pytest.raises(InputError, match="weights.flow_scale is 0"):
        load_seeded(plain, flow_scale=0)
