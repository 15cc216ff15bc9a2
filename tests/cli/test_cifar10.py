"""CIFAR-10 from a file server on this machine: what arrives is checked, kept, or refused."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from asyncopt.cli.problems import cifar10
from asyncopt.downloads import cache_folder, fetch
from asyncopt.errors import DownloadError

IMAGES = 4  # in each file; the real ones have 10,000


def archive(names: tuple[str, ...] = cifar10.TRAIN + cifar10.TEST) -> bytes:
    """Records whose bytes count up from the number of their file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number, name in enumerate(names):
            records = np.empty((IMAGES, cifar10.RECORD), dtype=np.uint8)
            records[:, 0] = number
            records[:, 1:] = np.arange(cifar10.RECORD - 1) % 256
            info = tarfile.TarInfo(name)
            info.size = records.nbytes
            tar.addfile(info, io.BytesIO(records.tobytes()))
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``content`` at every path, cut off after ``most`` bytes."""

    content = archive()
    most: int | None = None
    asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/cifar.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.most])

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_images_arrive_once(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    for _ in range(2):
        split = cifar10.load(server.url, digest(server.content), folder)
        for (x, y), files in ((split.train, range(5)), (split.test, range(5, 6))):
            assert x.shape == (IMAGES * len(files), 3, 32, 32)
            assert y.tolist() == [file for file in files for _ in range(IMAGES)]
            expected = (torch.arange(3 * 32 * 32) % 256).float().div(255)
            assert torch.equal(x[-1].flatten(), expected)
    assert server.asked == 1
    assert [path.name for path in folder.iterdir()] == ["cifar.tar.gz"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_damaged_file_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar.tar.gz").write_bytes(b"damaged")
    path = fetch(server.url, digest(server.content), tmp_path)
    assert path.read_bytes() == server.content


@pytest.mark.parametrize("most", [None, 100])
def test_what_is_not_the_file_is_refused(server: Server, tmp_path: Path, most: int | None) -> None:
    server.most = most
    right = digest(server.content if most else b"another file")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1.*; .*put the .*file at "):
        fetch(server.url, right, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    message = rf"cannot be downloaded: .*refused.*put the file at {tmp_path}/cifar\.tar\.gz"
    with pytest.raises(DownloadError, match=message):
        fetch(f"http://127.0.0.1:{port}/cifar.tar.gz", "0" * 64, tmp_path)
    with pytest.raises(DownloadError, match="expected an address that begins with http"):
        fetch("file:///etc/passwd", "0" * 64, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_without_the_images(server: Server, tmp_path: Path) -> None:
    server.content = archive(cifar10.TRAIN)
    with pytest.raises(DownloadError, match=r"expected .*/test_batch\.bin in it, found none"):
        cifar10.load(server.url, digest(server.content), tmp_path)


def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "asyncopt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "asyncopt"
