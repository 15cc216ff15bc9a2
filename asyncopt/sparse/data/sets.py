"""Well-known sparse sets, from the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from asyncopt import downloads
from asyncopt._checks import one_of

__all__ = ["SETS", "fetch"]

LIBSVM = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary/"
MOVIELENS = "https://files.grouplens.org/datasets/movielens/"


class File(NamedTuple):
    """Address of a file, and its checksum if one was published."""

    url: str
    checksum: str | None = None


def _libsvm(**names: str) -> dict[str, File]:
    """LIBSVM publishes no checksums."""
    return {part: File(LIBSVM + name) for part, name in names.items()}


def _movielens(name: str, checksum: str) -> dict[str, File]:
    """SHA-256 from the TensorFlow Datasets project, MD5 from GroupLens itself."""
    return {"ratings": File(MOVIELENS + name, checksum)}


SETS = {
    "rcv1": _libsvm(train="rcv1_train.binary.bz2", test="rcv1_test.binary.bz2"),
    "news20": _libsvm(train="news20.binary.bz2"),
    "url": _libsvm(train="url_combined.bz2"),
    "kdda": _libsvm(train="kdda.bz2", test="kdda.t.bz2"),
    "kddb": _libsvm(train="kddb.bz2", test="kddb.t.bz2"),
    "movielens-100k": _movielens(
        "ml-100k.zip", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
    ),
    "movielens-1m": _movielens(
        "ml-1m.zip", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
    ),
    "movielens-10m": _movielens("ml-10m.zip", "md5:ce571fd55effeba0271552578f2648bd"),
    "movielens-20m": _movielens(
        "ml-20m.zip", "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3"
    ),
    "movielens-25m": _movielens(
        "ml-25m.zip", "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa"
    ),
}


def fetch(
    name: str, *, folder: Path | None = None, sha256: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Download a set once, and keep it.

    Args:
        name: ``"rcv1"``, ``"news20"``, ``"url"``, ``"kdda"``, ``"kddb"`` (binary classification,
            LIBSVM's; for `load_svmlight`); ``"movielens-100k"``, ``"-1m"``, ``"-10m"``, ``"-20m"``,
            ``"-25m"`` (for `movielens`).
        folder: where files are kept; by default ``~/.cache/asyncopt``.
        sha256: checksums that you know, by part. For LIBSVM's sets none were published: without
            yours, a file is trusted the first time, and its SHA-256, kept beside it, is asked for
            ever after.

    Returns:
        The files, by part: ``"train"`` and ``"test"``, or ``"ratings"``.

    Raises:
        ValueError: the name or a part is not known.
        DownloadError: a file is not there and cannot be had, or is not what was asked for.
    """
    one_of("name", name, tuple(SETS))
    known = dict(sha256 or {})
    for part in known:
        one_of("sha256", part, tuple(SETS[name]))
    return {
        part: downloads.fetch(file.url, known.get(part, file.checksum), folder)
        for part, file in SETS[name].items()
    }
