"""Sparse rows in files that are mapped, not read: for data larger than memory.

A folder holds ``data.npy``, ``indices.npy``, ``indptr.npy`` and ``y.npy``, which ``numpy.load``
reads as well, and ``csr.json`` with what they must be. (A ``.npz`` of scipy cannot be mapped, and
safetensors copies what numpy asks for.)
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.utils import check_random_state

from asyncopt._checks import one_of, whole
from asyncopt.sparse.data.svmlight import Format
from asyncopt.sparse.matrices import canonical, of_parts, sound

__all__ = ["convert_svmlight", "open_csr", "row_blocks", "save_csr"]

NARROW = int(np.iinfo(np.int32).max)
"""Entries and columns up to which indices have 32 bits; scipy wants both index arrays alike."""
CHUNK = 1 << 22
"""Elements written or looked at at a time."""
HEAD = {"format": "asyncopt csr", "version": 1}
VALUES = ("float32", "float64")


def save_csr(path: str | os.PathLike[str], X: Any, y: Any) -> None:
    """Write rows and their labels to a new folder, whole or not at all.

    Args:
        path: of the folder; it must not exist.
        X: sparse or dense, float32 or float64 of shape (rows, columns).
        y: numbers or booleans, shape (rows,).

    Raises:
        ValueError: an argument is wrong.
        OSError: the folder exists, or cannot be written.
    """
    if np.ndim(X) != 2:
        raise ValueError(f"X: expected a matrix, got an array of {np.ndim(X)} dimensions")
    X, y = sound("X", X if sparse.issparse(X) else np.asarray(X)), np.asarray(y)
    one_of("X.dtype", X.dtype.name, VALUES)
    csr = canonical(X)
    if y.dtype.kind not in "biuf" or y.shape != csr.shape[:1]:
        raise ValueError(
            f"y: expected numbers of shape {csr.shape[:1]}, got {y.dtype} of shape {y.shape}"
        )
    with _Folder(Path(path), csr.dtype, y.dtype) as folder:
        folder.append(csr.indptr[1:], csr.indices, csr.data, y)
        folder.finish(csr.shape[1], shift=0)


def convert_svmlight(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    columns: int | None = None,
    dtype: npt.DTypeLike = np.float32,
    zero_based: bool | str = "auto",
    n_threads: int | None = None,
) -> None:
    """Make a folder for `open_csr` of a file in the svmlight format, without holding it in memory.

    Args:
        source: the file; decompressed if its name ends in ``.gz``, ``.bz2`` or ``.xz``.
        target: the folder; it must not exist. It appears when it is whole.
        columns: as of `load_svmlight`, and so on.
        dtype: of the values.
        zero_based: whether the first column has index 0.
        n_threads: that parse.

    Raises:
        ValueError: an argument is wrong, or the file is not of the format.
        OSError: the file cannot be read, or the folder exists or cannot be written.
    """
    form = Format(dtype, zero_based, query_id=False, n_threads=n_threads)
    if columns is not None:
        whole("columns", columns, 1)
    lowest, highest, first = NARROW, -1, 0
    assumed: int | None = None
    with _Folder(Path(target), np.dtype(dtype), np.dtype(np.float64)) as folder:
        for block in form.parse(source):
            lowest, highest = min(lowest, block.lowest), max(highest, block.highest)
            if assumed is None:
                assumed = form.base(lowest)
            ends, labels = np.empty(block.rows, np.int64), np.empty(block.rows)
            indices = np.empty(block.entries, np.int32)
            values = np.empty(block.entries, dtype)
            block.move_to(
                ends=ends,
                first=first,
                columns=indices,
                base=assumed,
                values=values,
                labels=labels,
                queries=None,
                threads=form.threads,
            )
            first += len(indices)
            folder.append(ends, indices, values, labels)
        base = form.base(lowest)
        used = max(highest + 1 - base, 1)
        if columns is not None and columns < used:
            raise ValueError(
                f"columns: expected at least {used}, as many as {os.fspath(source)} has; "
                f"got {columns}"
            )
        folder.finish(columns or used, shift=(assumed or 0) - base)


def open_csr(path: str | os.PathLike[str]) -> tuple[Any, npt.NDArray[Any]]:
    """Map a folder written by `save_csr` or `convert_svmlight`.

    Nothing is read but what is looked at. ``X @ w`` and ``X[a:b]`` work; training copies the rows
    that it is given, so give it some at a time, by `row_blocks` and ``partial_fit``.

    Args:
        path: of the folder.

    Returns:
        X, a ``csr_array`` over read-only ``numpy.memmap``s, its index arrays int32 or, from 2**31
        entries on, int64; and y, a read-only ``numpy.memmap`` of shape (rows,).

    Raises:
        ValueError: the folder is not of that kind, or is damaged. Column indices are looked at by
            whatever uses them first: `row_blocks` and the estimators refuse those that do not fit;
            scipy's own products do not look.
        OSError: it cannot be read.
    """
    folder = Path(path)
    head = _head(folder)
    rows, columns = head["shape"]
    data = _mapped(folder, head, "data", head["entries"])
    indices = _mapped(folder, head, "indices", head["entries"])
    begin = _mapped(folder, head, "indptr", rows + 1)
    _check_begins(folder, begin, head["entries"])
    X = of_parts(data, indices, begin, (rows, columns))
    X.has_canonical_format = True
    return X, _mapped(folder, head, "y", rows)


def row_blocks(
    X: Any, y: Any, rows: int, *, random_state: Any = None
) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
    """Some rows at a time, for ``partial_fit`` on a matrix larger than memory.

    >>> X, y = open_csr("rcv1")
    >>> for epoch in range(5):
    ...     for X_block, y_block in row_blocks(X, y, rows=100_000, random_state=epoch):
    ...         model.partial_fit(X_block, y_block, classes=[-1, 1])

    Args:
        X: in CSR format, mapped or not, shape (rows, columns).
        y: shape (rows,).
        rows: of a block; the last one may have less. Training copies a block, in 8 bytes an entry.
        random_state: a seed or ``RandomState`` for the order of the blocks; None: that of the file.
            Estimators shuffle the rows of a block themselves.

    Yields:
        A ``csr_array`` whose numbers are X's, not copies, with int32 indices; and its labels.

    Raises:
        ValueError: an argument is wrong, or an index of X is not that of a column.
    """
    whole("rows", rows, 1)
    if not sparse.issparse(X) or X.format != "csr" or X.ndim != 2:
        raise ValueError(
            f"X: expected a matrix in CSR format, got {type(X).__name__}; call .tocsr()"
        )
    entries = len(X.indices)
    if (
        X.indptr.shape != (X.shape[0] + 1,)
        or [*X.indptr[[0, -1]]] != [0, entries]
        or len(X.data) != entries
    ):
        raise ValueError(
            f"X: expected {X.shape[0] + 1} numbers in indptr, from 0 to as many as there are in "
            "indices and in data; rebuild it with scipy.sparse.csr_array"
        )
    if np.shape(y)[:1] != X.shape[:1]:
        raise ValueError(
            f"y: expected {X.shape[0]} labels, one for each row, got shape {np.shape(y)}"
        )
    starts = np.arange(0, X.shape[0], rows)
    if random_state is not None:
        check_random_state(random_state).shuffle(starts)
    return (_block(X, y, int(start), min(int(start) + rows, X.shape[0])) for start in starts)


def _block(X: Any, y: Any, start: int, stop: int) -> tuple[Any, npt.NDArray[Any]]:
    begin = np.asarray(X.indptr[start : stop + 1])
    first, last = (max(int(each), 0) for each in begin[[0, -1]])
    shape = stop - start, X.shape[1]
    block = of_parts(X.data[first:last], X.indices[first:last], begin - begin[0], shape)
    block = sound("X", block)
    width = np.int32 if max(block.nnz, X.shape[1]) <= NARROW else np.int64
    block.indices, block.indptr = (
        part.astype(width, copy=False) for part in (block.indices, block.indptr)
    )
    return block, y[start:stop]


class _Folder:
    """A folder under another name, until it is whole."""

    def __init__(self, path: Path, values: np.dtype[Any], labels: np.dtype[Any]) -> None:
        if os.path.lexists(path):
            raise FileExistsError(f"{path}: expected a new folder, found one; remove it first")
        self._path = path
        self._aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        self._dtypes = {
            "data": values,
            "indices": np.dtype(np.int32),
            "indptr": np.dtype(np.int64),
            "y": labels,
        }

    def __enter__(self) -> Self:
        self._aside.mkdir()
        self._files = {
            name: _Npy(self._aside / f"{name}.npy", dtype) for name, dtype in self._dtypes.items()
        }
        self._files["indptr"].append(np.zeros(1, np.int64))
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._aside, ignore_errors=True)  # is gone if all went well

    def append(self, ends: Any, indices: Any, values: Any, y: Any) -> None:
        for name, part in zip(self._files, (values, indices, ends, y), strict=True):
            self._files[name].append(part)

    def finish(self, columns: int, shift: int) -> None:
        """Give the folder its name, with ``shift`` added to every index."""
        entries = self._files["data"].length
        width = np.dtype(np.int32 if max(entries, columns) <= NARROW else np.int64)
        for name, add in (("indices", shift), ("indptr", 0)):
            if add or self._files[name].dtype != width:
                self._files[name] = self._files[name].changed(width, add)
        head = HEAD | {
            "shape": [self._files["y"].length, columns],
            "entries": entries,
            "dtypes": {name: file.dtype.name for name, file in self._files.items()},
        }
        for file in self._files.values():
            file.finish()
        with open(self._aside / "csr.json", "w", encoding="utf-8") as text:
            json.dump(head, text, indent=2)
            _flush(text)
        os.rename(self._aside, self._path)
        parent = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


class _Npy:
    """A ``.npy`` file of one dimension that grows."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.length = 0
        self._path = path
        self._file = open(path, "w+b")  # noqa: SIM115 - closed by its folder
        self._write_head()

    def _write_head(self) -> None:
        """Numpy pads it, so that it has room for any length."""
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (self.length,),
            },
        )

    def append(self, array: npt.NDArray[Any]) -> None:
        for start in range(0, len(array), CHUNK):
            part = np.ascontiguousarray(array[start : start + CHUNK], self.dtype)
            self._file.write(part.data)
        self.length += len(array)

    def changed(self, dtype: np.dtype[Any], add: int) -> _Npy:
        """The same with another dtype, and a number added; takes this file's place."""
        self.finish()
        old = np.load(self._path, mmap_mode="r")
        new = _Npy(self._path.with_suffix(".new"), dtype)
        for start in range(0, len(old), CHUNK):
            new.append(old[start : start + CHUNK] + np.asarray(add, dtype))
        new._path = new._path.replace(self._path)
        return new

    def finish(self) -> None:
        self._write_head()
        _flush(self._file)
        self.close()

    def close(self) -> None:
        self._file.close()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _refuse(path: Path, what: str) -> NoReturn:
    raise ValueError(f"{path}: expected {what}; write the folder again")


def _head(folder: Path) -> dict[str, Any]:
    path = folder / "csr.json"
    try:
        head = json.loads(path.read_text("utf-8"))
        if {key: head[key] for key in HEAD} != HEAD:
            _refuse(path, f"{HEAD}, got { ({key: head[key] for key in HEAD}) }")
        rows, columns = head["shape"]
        for name, number in (("rows", rows), ("columns", columns), ("entries", head["entries"])):
            whole(name, number, 0)
        one_of("data", head["dtypes"]["data"], VALUES)
        one_of("indices", head["dtypes"]["indices"], ("int32", "int64"))
        one_of("indptr", head["dtypes"]["indptr"], (head["dtypes"]["indices"],))
        one_of("y", np.dtype(head["dtypes"]["y"]).kind, tuple("biuf"))
    except FileNotFoundError:
        if not folder.is_dir():
            raise
        raise FileNotFoundError(
            f"{folder}: expected a folder made by save_csr or convert_svmlight, which have a "
            "csr.json; got none"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: expected the head of a folder, got: {error!r}") from error
    return dict(head)


def _mapped(folder: Path, head: dict[str, Any], name: str, length: int) -> npt.NDArray[Any]:
    path = folder / f"{name}.npy"
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy's, of a bad header or a short file: of many types
        raise ValueError(f"{path}: expected a whole .npy file, got: {error}") from error
    expected = np.dtype(head["dtypes"][name]), (length,)
    if (array.dtype, array.shape) != expected:
        _refuse(path, f"{expected[0]} of shape {expected[1]}, got {array.dtype} of {array.shape}")
    return array


def _check_begins(folder: Path, begin: npt.NDArray[Any], entries: int) -> None:
    rising = all(
        (np.diff(begin[start : start + CHUNK + 1]) >= 0).all()
        for start in range(0, len(begin), CHUNK)
    )
    if begin[0] != 0 or begin[-1] != entries or not rising:
        _refuse(folder / "indptr.npy", f"numbers that rise from 0 to {entries}, got others")
