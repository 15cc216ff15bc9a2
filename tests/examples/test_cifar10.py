"""CIFAR-10 from a local file server: downloads are checked, kept, or refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from asyncopt.errors import DownloadError
from examples.cross_validation import cifar10
from tests.file_server import FileServer, serving, sha256

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


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(archive()) as server:
        yield server


def test_images_arrive_once(server: FileServer, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    for _ in range(2):
        split = cifar10.load(server.folder + "cifar.tar.gz", sha256(server.content), folder)
        for (x, y), files in ((split.train, range(5)), (split.test, range(5, 6))):
            assert x.shape == (IMAGES * len(files), 3, 32, 32)
            assert y.tolist() == [file for file in files for _ in range(IMAGES)]
            expected = (torch.arange(3 * 32 * 32) % 256).float().div(255)
            assert torch.equal(x[-1].flatten(), expected)
    assert server.asked == 1
    assert [path.name for path in folder.iterdir()] == ["cifar.tar.gz"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_archive_without_the_images(server: FileServer, tmp_path: Path) -> None:
    server.content = archive(cifar10.TRAIN)
    with pytest.raises(DownloadError, match=r"expected .*/test_batch\.bin in it, found none"):
        cifar10.load(server.folder + "cifar.tar.gz", sha256(server.content), tmp_path)
