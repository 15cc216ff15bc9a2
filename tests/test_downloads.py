"""Files from a local server: downloads are checked, kept, or refused."""

from __future__ import annotations

import bz2
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncopt.downloads import Checksum, cache_folder, fetch
from asyncopt.errors import DownloadError
from asyncopt.sparse import fetch as fetch_set
from asyncopt.sparse import load_svmlight
from asyncopt.sparse.data import sets
from tests.file_server import FileServer, serving, sha256

CONTENT = bz2.compress(b"1 1:0.5 2:0.25\n-1 3:1\n" * 100)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def url(server: FileServer) -> str:
    return server.folder + "rows.bz2"


@pytest.mark.parametrize("checksum", [sha256(CONTENT), f"md5:{hashlib.md5(CONTENT).hexdigest()}"])
def test_a_file_arrives_once(server: FileServer, url: str, tmp_path: Path, checksum: str) -> None:
    folder = tmp_path / "not" / "yet"
    for _ in range(2):
        assert fetch(url, checksum, folder).read_bytes() == CONTENT
    assert server.asked == 1
    assert [path.name for path in folder.iterdir()] == ["rows.bz2"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_damaged_file_is_replaced(url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.bz2").write_bytes(b"damaged")
    assert fetch(url, sha256(CONTENT), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("most", [None, 20])
def test_what_is_not_the_file_is_refused(
    server: FileServer, url: str, tmp_path: Path, most: int | None
) -> None:
    server.most = most
    right = sha256(CONTENT if most else b"another file")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1.*; .*put the .*file at "):
        fetch(url, right, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_trusted_once(server: FileServer, url: str, tmp_path: Path) -> None:
    """Without a checksum the first file is trusted, and later ones must equal it."""
    path = fetch(url, None, tmp_path)
    record = tmp_path / "rows.bz2.sha256"
    assert record.read_text() == f"{sha256(CONTENT)}  rows.bz2\n"
    path.write_bytes(b"BZh damaged")
    assert fetch(url, None, tmp_path).read_bytes() == CONTENT
    assert server.asked == 2
    path.unlink()
    server.content = bz2.compress(b"another")
    with pytest.raises(DownloadError, match=f"expected a file with SHA-256 {sha256(CONTENT)}, got"):
        fetch(url, None, tmp_path)
    assert list(tmp_path.iterdir()) == [record]


@pytest.mark.parametrize("damaged", [b"", b"spam\n", b"\xff\0", b"12ab  rows.bz2\n"])
def test_a_damaged_record_is_named(
    server: FileServer, url: str, tmp_path: Path, damaged: bytes
) -> None:
    path, record = tmp_path / "rows.bz2", tmp_path / "rows.bz2.sha256"
    path.write_bytes(CONTENT)
    record.write_bytes(damaged)
    with pytest.raises(DownloadError, match=rf"^{record}: expected the SHA-256 of a file, .*remov"):
        fetch(url, None, tmp_path)
    assert (path.read_bytes(), record.read_bytes(), server.asked) == (CONTENT, damaged, 0)
    record.unlink()
    assert fetch(url, None, tmp_path) == path


def test_a_file_put_there_by_hand_is_trusted(server: FileServer, url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.bz2").write_bytes(CONTENT)
    fetch(url, None, tmp_path)
    assert server.asked == 0
    assert (tmp_path / "rows.bz2.sha256").read_text().startswith(sha256(CONTENT))


def test_no_page_of_a_proxy_nor_part_is_trusted(
    server: FileServer, url: str, tmp_path: Path
) -> None:
    server.most = 20
    with pytest.raises(DownloadError, match="connection ended after 20 of"):
        fetch(url, None, tmp_path)
    server.content = b"<html>Log in"
    with pytest.raises(DownloadError, match=r"expected a \.bz2 file, got one that begins with b'<"):
        fetch(url, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    message = rf"cannot be downloaded: .*refused.*put the file at {tmp_path}/rows\.bz2"
    with pytest.raises(DownloadError, match=message):
        fetch(f"http://127.0.0.1:{port}/rows.bz2", "0" * 64, tmp_path)
    with pytest.raises(DownloadError, match="expected an address that begins with http"):
        fetch("file:///etc/passwd", "0" * 64, tmp_path)
    with pytest.raises(ValueError, match="checksum: expected 64 hexadecimal digits, or 'md5:' and"):
        fetch("http://localhost/x", "0" * 32, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "asyncopt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "asyncopt"


def test_sets(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        part: sets.File(server.folder + file.url.rpartition("/")[2])
        for part, file in sets.SETS["rcv1"].items()
    }
    monkeypatch.setitem(sets.SETS, "rcv1", files)
    paths = fetch_set("rcv1", folder=tmp_path)
    assert sorted(paths) == ["test", "train"]
    X, y = load_svmlight(paths["train"])
    assert X.shape == (200, 3)
    assert y.sum() == 0
    right = {"test": sha256(CONTENT)}
    assert fetch_set("rcv1", folder=tmp_path, sha256=right) == paths
    with pytest.raises(DownloadError, match="expected a file with SHA-256 0000"):
        fetch_set("rcv1", folder=tmp_path, sha256={"test": "0" * 64})
    with pytest.raises(
        ValueError, match=r"name: expected one of 'rcv1', 'news20', .*got 'netflix'"
    ):
        fetch_set("netflix")
    with pytest.raises(ValueError, match="sha256: expected one of 'train', 'test'; got 'dev'"):
        fetch_set("rcv1", sha256={"dev": "0" * 64})


def test_checksums_of_sets_are_well_formed() -> None:
    for files in sets.SETS.values():
        for file in files.values():
            assert file.url.startswith("https://")
            assert file.checksum is None or Checksum.parse(file.checksum)
