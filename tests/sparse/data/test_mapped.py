"""Rows in mapped files: they read back as written, writes are atomic, damage is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from asyncopt.sparse import (
    LinearClassifier,
    convert_svmlight,
    make_like,
    open_csr,
    row_blocks,
    save_csr,
)
from asyncopt.sparse.data import mapped, svmlight


def data(rows: int = 500) -> tuple[Any, Any]:
    return make_like(rows=rows, columns=200, seed=1)


def check_same(read: Any, X: Any) -> None:
    assert read.shape == X.shape
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(read, part), getattr(X, part))


@pytest.mark.parametrize("width", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_was_written_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any, width: Any
) -> None:
    """Indices of 64 bits as from 2**31 entries on."""
    X, y = data()
    if width is np.int64:
        monkeypatch.setattr(mapped, "NARROW", X.nnz - 1)
    save_csr(tmp_path / "rows", X.astype(dtype), y)
    read, labels = open_csr(tmp_path / "rows")
    check_same(read, X.astype(dtype))
    assert (labels == y).all()
    assert labels.dtype == y.dtype
    assert read.indices.dtype == read.indptr.dtype == width
    for part in (read.data, read.indices, read.indptr, labels):
        assert isinstance(part, np.memmap)
        assert not part.flags.writeable
    np.testing.assert_array_equal(read[17:30].toarray(), X[17:30].toarray())
    np.testing.assert_allclose(read @ np.ones(200), X @ np.ones(200), rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


@pytest.mark.parametrize("shape", [(0, 5), (4, 5), (1, 1)])
def test_no_entries(tmp_path: Path, shape: tuple[int, int]) -> None:
    save_csr(tmp_path / "rows", sparse.csr_array(shape, dtype=np.float32), np.zeros(shape[0]))
    read, labels = open_csr(tmp_path / "rows")
    assert read.shape == shape
    assert read.nnz == 0
    assert len(labels) == shape[0]
    assert sum(len(y) for _, y in row_blocks(read, labels, 3)) == shape[0]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("zero_based", ["auto", True])
def test_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, narrow: bool, zero_based: Any
) -> None:
    """As scikit-learn reads it; index 0 comes late, when others were written as counting from 1."""
    X, y = data()
    dense = X.toarray()
    dense[:, 0] = np.arange(500) == 499
    X = sparse.csr_array(dense)
    text = tmp_path / "rows.svm"
    dump_svmlight_file(X, y, str(text), zero_based=first == 0)
    monkeypatch.setattr(svmlight, "RANGE", text.stat().st_size // 3)
    if not narrow:
        monkeypatch.setattr(mapped, "NARROW", X.nnz - 1)
    convert_svmlight(text, tmp_path / "rows", zero_based=zero_based)
    read, labels = open_csr(tmp_path / "rows")
    expected, expected_labels = load_svmlight_file(
        str(text), dtype=np.float32, zero_based=zero_based
    )
    check_same(read, expected)
    assert (labels == expected_labels).all()
    assert read.indices.dtype == read.indptr.dtype == (np.int32 if narrow else np.int64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows", "rows.svm"]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    text = tmp_path / "rows.svm"
    text.write_text("1 1:1\n1 7:x\n")
    with pytest.raises(ValueError, match=r"rows\.svm: line 2, column 5: expected a number"):
        convert_svmlight(text, tmp_path / "rows")
    text.write_text("1 7:1\n")
    with pytest.raises(ValueError, match=r"columns: expected at least 7, .* got 3"):
        convert_svmlight(text, tmp_path / "rows", columns=3)
    with pytest.raises(FileNotFoundError):
        convert_svmlight(tmp_path / "nowhere", tmp_path / "rows")
    assert list(tmp_path.iterdir()) == [text]
    convert_svmlight(text, tmp_path / "rows", columns=9)
    assert open_csr(tmp_path / "rows")[0].shape == (1, 9)


@pytest.mark.parametrize("width", [np.int32, np.int64])
def test_blocks_train_like_slices(tmp_path: Path, width: Any) -> None:
    """Mapped, read-only, with indices of 32 or 64 bits."""
    X, y = data(rows=1000)
    save_csr(tmp_path / "rows", X, y)
    read, labels = open_csr(tmp_path / "rows")
    read.indices, read.indptr = read.indices.astype(width), read.indptr.astype(width)
    ours, theirs = (LinearClassifier(random_state=0) for _ in range(2))
    starts = []
    for X_block, y_block in row_blocks(read, labels, 130, random_state=5):
        assert X_block.indices.dtype == X_block.indptr.dtype == np.int32
        assert np.shares_memory(X_block.data, read.data)
        ours.partial_fit(X_block, y_block, classes=[-1, 1])
        start = int(np.searchsorted(X.indptr, np.flatnonzero(X.data == X_block.data[0])[0]))
        starts.append(start)
        theirs.partial_fit(X[start : start + 130], y[start : start + 130], classes=[-1, 1])
    assert starts != sorted(starts)
    assert sorted(starts) == list(range(0, 1000, 130))
    np.testing.assert_array_equal(ours.coef_, theirs.coef_)
    assert ours.score(read, labels) > 0.7


def test_blocks_in_the_order_of_the_file() -> None:
    X, y = data()
    blocks = list(row_blocks(X, y, 123))
    check_same(sparse.vstack([block for block, _ in blocks], format="csr"), X)
    assert np.concatenate([labels for _, labels in blocks]).tolist() == y.tolist()


def cut(folder: Path) -> None:
    path = folder / "data.npy"
    path.write_bytes(path.read_bytes()[:-1])


def swap(folder: Path) -> None:
    shutil.copy(folder / "indices.npy", folder / "indptr.npy")


def twist(folder: Path) -> None:
    begin = np.load(folder / "indptr.npy")
    begin[3] = begin[-1] + 1
    np.save(folder / "indptr.npy", begin)


def head(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "csr.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"data\.npy: expected a whole \.npy file, got: "),
        (swap, r"indptr\.npy: expected int32 of shape \(501,\), got int32 of \("),
        (twist, r"indptr\.npy: expected numbers that rise from 0 to \d+, got others"),
        (lambda folder: (folder / "y.npy").unlink(), "y.npy"),
        (lambda folder: (folder / "csr.json").unlink(), "expected a folder made by save_csr or"),
        (lambda folder: (folder / "csr.json").write_text("{"), r"csr\.json: expected the head"),
        (head(version=2), r"csr\.json: expected .*'version': 1}, got .*'version': 2}; write"),
        (head(shape=[501, 200]), r"indptr\.npy: expected int32 of shape \(502,\), got"),
        (head(entries=-1), r"csr\.json: expected the head of a folder, got: .*entries"),
        (head(dtypes={}), r"csr\.json: expected the head of a folder, got: KeyError"),
    ],
)
def test_damage(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    save_csr(tmp_path / "rows", *data())
    damage(tmp_path / "rows")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_csr(tmp_path / "rows")


def test_bad_arguments(tmp_path: Path) -> None:
    X, y = data()
    save_csr(tmp_path / "rows", X, y)
    with pytest.raises(FileExistsError, match="rows: expected a new folder, found one; remove it"):
        save_csr(tmp_path / "rows", X, y)
    with pytest.raises(
        ValueError, match=r"y: expected numbers of shape \(500,\), got int64 of sha"
    ):
        save_csr(tmp_path / "other", X, y[1:])
    with pytest.raises(ValueError, match=r"X\.dtype: expected one of 'float32', 'float64'; got 'i"):
        save_csr(tmp_path / "other", X.astype(np.int32), y)
    with pytest.raises(FileNotFoundError):
        open_csr(tmp_path / "other")
    with pytest.raises(ValueError, match="rows: expected an integer >= 1, got 0"):
        row_blocks(X, y, 0)
    with pytest.raises(
        ValueError, match="X: expected a matrix in CSR format, got csc_matrix; call"
    ):
        row_blocks(X.tocsc(), y, 5)
    with pytest.raises(ValueError, match="y: expected 500 labels, one for each row, got shape"):
        row_blocks(X, y[:3], 5)
    X.indices[77] = 200
    with pytest.raises(ValueError, match=r"X: expected column indices in \[0, 200\), got 200"):
        list(row_blocks(X, y, 100))
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
