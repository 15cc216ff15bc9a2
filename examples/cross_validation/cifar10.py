"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images in ten classes, 170 MB from the network."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asyncopt.downloads import fetch
from asyncopt.errors import DownloadError
from asyncopt.studies.training.networks import Split

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"  # plain bytes: nothing to unpickle
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
TRAIN = tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6))
TEST = ("cifar-10-batches-bin/test_batch.bin",)
RECORD = 1 + 3 * 32 * 32  # bytes: the class, then the planes red, green and blue


def load(url: str = URL, sha256: str = SHA256, folder: Path | None = None) -> Split:
    """50,000 images to train and 10,000 to test: x float32 (n, 3, 32, 32) in [0, 1], y int64 (n,).

    Args:
        url: of the archive.
        sha256: of the archive.
        folder: where it is kept; see `fetch`.

    Raises:
        DownloadError: it cannot be had, or is damaged.
    """
    path = fetch(url, sha256, folder)
    with tarfile.open(path) as archive:
        return Split(_images(archive, TRAIN), _images(archive, TEST))


def _images(archive: tarfile.TarFile, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    data = b"".join(_member(archive, name) for name in names)
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, RECORD)
    x = torch.from_numpy(records[:, 1:].astype(np.float32)).div_(255).reshape(-1, 3, 32, 32)
    return x, torch.from_numpy(records[:, 0].astype(np.int64))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        file = archive.extractfile(name)  # read where it lies: nothing is written to disk
    except KeyError:
        file = None
    if file is None:
        raise DownloadError(f"{archive.name!s}: expected {name} in it, found none; remove the file")
    return file.read()
