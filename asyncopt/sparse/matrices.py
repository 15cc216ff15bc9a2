"""Validation of input matrices: indices are checked, then the matrix is converted to CSR."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

__all__ = ["canonical", "indices", "narrow", "of_parts", "sound"]

REMEDY = "rebuild it with scipy.sparse.csr_array"


def sound(name: str, X: Any) -> Any:
    """The argument, converted to CSR format if it is a sparse matrix.

    Scipy checks indices only when a matrix is made. If its arrays are changed afterwards,
    conversions and products access memory out of bounds. Therefore call this before them.

    Raises:
        ValueError: an index is not that of a row or a column; the message begins with ``name``.
    """
    if not sparse.issparse(X):
        return X
    if X.ndim != 2:
        raise ValueError(f"{name}: expected a matrix, got an array of {X.ndim} dimensions")
    _check(name, X)
    if X.format != "csr":
        has_blocks = X.format == "bsr"
        X = X.tocsr()
        _check(name, X)  # a lil_array's indices have not been checked yet
        if has_blocks:
            X.eliminate_zeros()  # what fills up a block is no entry
    usual = {X.indices.dtype, X.indptr.dtype} <= {np.dtype(np.int32), np.dtype(np.int64)}
    if usual and X.data.dtype.isnative:
        return X
    return of_parts(
        X.data.astype(X.data.dtype.newbyteorder("="), copy=False),
        X.indices.astype(np.int64),
        X.indptr.astype(np.int64),
        X.shape,
    )


def canonical(csr: Any) -> Any:
    """A sound matrix, or an array, as CSR with sorted columns in each row and no duplicates.

    A matrix is copied only if necessary; the caller's is never changed. ``has_canonical_format`` is
    not trusted: it may be outdated if the arrays were changed.
    """
    if not sparse.issparse(csr):
        return sparse.csr_array(csr)
    csr = of_parts(csr.data, csr.indices, csr.indptr, csr.shape)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr


def of_parts(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> Any:
    """A matrix over these arrays; scipy's constructor would copy 64-bit indices into 32 bits."""
    csr = sparse.csr_array(shape, dtype=data.dtype)
    csr.data, csr.indices, csr.indptr = data, indices, indptr
    return csr


def narrow(name: str, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Finite numbers as float32.

    Raises:
        ValueError: they are too large for it; the message begins with ``name``.
    """
    with np.errstate(over="ignore"):
        narrowed = numbers.astype(np.float32)
    if not np.isfinite(narrowed).all():
        raise ValueError(f"{name}: expected values within the range of float32; scale them")
    return narrowed


def indices(name: str, given: Any, size: int) -> npt.NDArray[np.int64]:
    """Integers in [0, size) as an array.

    Raises:
        ValueError: they are others, or not of one dimension; the message begins with ``name``.
    """
    numbers = np.asarray(given)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(
            f"{name}: expected integers of shape (n,), got {numbers.dtype} of {numbers.shape}"
        )
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < size:
        raise ValueError(
            f"{name}: expected numbers in [0, {size}), got {numbers.min()} to {numbers.max()}"
        )
    return numbers.astype(np.int64)


def _check(name: str, X: Any) -> None:
    rows, columns = X.shape
    if X.format == "csr":
        _check_compressed(name, X, rows, ("column", columns))
    elif X.format == "csc":
        _check_compressed(name, X, columns, ("row", rows))
    elif X.format == "bsr":
        height, width = X.blocksize
        _check_compressed(name, X, rows // height, ("block column", columns // width))
    elif X.format == "coo":
        for kind, indices, size in zip(("row", "column"), X.coords, X.shape, strict=True):
            _check_lengths(name, indices, X.data)
            _check_indices(name, kind, indices, size)
    elif X.format == "dia":
        _check_lengths(name, X.offsets, X.data)
    elif X.format == "lil":
        for indices, values in zip(X.rows, X.data, strict=True):
            _check_lengths(name, indices, values)


def _check_compressed(name: str, X: Any, length: int, minor: tuple[str, int]) -> None:
    entries = len(X.indices)
    begin = X.indptr
    if (
        begin.shape != (length + 1,)
        or begin.dtype.kind not in "iu"
        or begin[0] != 0
        or begin[-1] != entries
        or (begin[1:] < begin[:-1]).any()
    ):
        raise ValueError(
            f"{name}: expected indptr to rise from 0 to the number of entries in indices and in "
            f"data ({entries}), {length + 1} integers; {REMEDY}"
        )
    _check_lengths(name, X.indices, X.data)
    _check_indices(name, minor[0], X.indices, minor[1])


def _check_lengths(name: str, indices: Any, values: Any) -> None:
    if len(indices) != len(values):
        raise ValueError(
            f"{name}: expected as many indices as values, got {len(indices)} and {len(values)}; "
            f"{REMEDY}"
        )


def _check_indices(name: str, kind: str, indices: npt.NDArray[Any], size: int) -> None:
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected {kind} indices that are integers, got {indices.dtype} of shape "
            f"{indices.shape}; {REMEDY}"
        )
    if len(indices) and not 0 <= (low := indices.min()) <= (high := indices.max()) < size:
        raise ValueError(
            f"{name}: expected {kind} indices in [0, {size}), got {low if low < 0 else high}; "
            f"{REMEDY}"
        )
