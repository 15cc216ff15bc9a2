"""Examples in the order in which they are visited, their columns numbered by frequency."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt import _core

__all__ = ["ColumnSums", "Examples", "parts"]

_Floats = npt.NDArray[np.float32]


class ColumnSums:
    """Statistics of each column; the intercept is the last.

    Attributes:
        intercept: whether there is one.
        rows: the number of examples seen so far.
        counts: those of them that have the column, int64 of shape (features + 1,).
        curvatures: of the examples added last, means of the geometric mean of ``x ** 2`` and of
            ``|x|`` times the sum of the example's absolute values, float64 of that shape: each
            column's part in the curvature of the mean of ``prediction ** 2 / 2``, between what it
            is alone and what it is at most beside the others.
        unit: the value of the intercept's column in the examples added last.
    """

    def __init__(self, features: int, intercept: bool) -> None:
        self.rows = 0
        self.counts = np.zeros(features + intercept, np.int64)
        self.curvatures = np.zeros(features + intercept)
        self.intercept = intercept
        self.unit = 1.0
        self._square, self._entries = 0.0, 0

    def add(self, csr: Any, *, slow_intercept: bool = False) -> None:
        """Count examples, of a canonical matrix.

        Args:
            csr: the matrix.
            slow_intercept: its unit is that of a typical entry, for steps that are as long in all
                columns: the root of the mean square of the entries but zeros, at most 1. It is a
                power of two, so that float32 multiplies and divides by it without rounding.

        Raises:
            ValueError: a column index is not one of the features; nothing was counted.
        """
        square, entries = self._square, self._entries
        with np.errstate(over="ignore"):
            square += float(np.dot(csr.data, csr.data))
        entries += int(np.count_nonzero(csr.data))
        unit = 1.0
        if slow_intercept and 0 < square < entries:
            unit = float(np.exp2(max(np.round(np.log2(square / entries) / 2), -8)))
        masses = np.zeros_like(self.curvatures)
        _core.count_columns(
            *parts(csr), intercept=unit * self.intercept, counts=self.counts, masses=masses
        )
        self._square, self._entries, self.unit = square, entries, unit
        self.curvatures = masses / max(csr.shape[0], 1)
        self.rows += csr.shape[0]

    def spacing(self) -> _Floats:
        """Examples for each one that has a column: by how much its penalty counts there."""
        spacing = self.rows / np.maximum(self.counts, 1)
        if self.intercept:
            spacing[-1] = 0  # is not penalized
        return spacing.astype(np.float32)

    def mean_square_norm(self) -> float:
        """The mean over the rows of the sum of their squares, the intercept's included."""
        return self._square / max(self.rows, 1) + self.unit**2 * self.intercept


class Examples:
    """A copy of some rows of a matrix, in an order of its own.

    Rows are visited in the order in which they lie in memory, which is twice as fast as at random;
    the most frequent columns are neighbours in the model's memory, the intercept among them.

    Args:
        csr: a canonical matrix, float32 or float64 of shape (examples, features), whose column
            indices were checked by `ColumnSums.add`.
        sums: of the columns.
        order: the rows to take, int64.
        threads: that copy.

    Attributes:
        columns_by_frequency: the original column of each, int64 of shape (features + 1,).
        units: what a weight of 1 adds to a prediction where the original column has a 1: ``unit``
            for the intercept, else 1; float32 of that shape.
    """

    def __init__(
        self,
        csr: Any,
        sums: ColumnSums,
        order: npt.NDArray[np.int64],
        threads: int,
    ) -> None:
        intercept = len(sums.counts) - csr.shape[1]
        self.columns_by_frequency = np.argsort(-sums.counts, kind="stable")
        self.units = np.ones(len(sums.counts), np.float32)
        if intercept:
            self.units[self.columns_by_frequency == csr.shape[1]] = sums.unit
        number = np.empty(len(sums.counts), np.int32)
        number[self.columns_by_frequency] = np.arange(len(number), dtype=np.int32)
        begin, columns, values = parts(csr)
        self.begin = np.zeros(len(order) + 1, np.int64)
        np.cumsum(np.diff(begin)[order] + intercept, out=self.begin[1:])
        entries = int(self.begin[-1])
        self.columns = np.empty(entries + _core.LINEAR_LANES, np.int32)
        self.values = np.empty(entries + _core.LINEAR_LANES, np.float32)
        self.columns[entries:] = 0
        self.values[entries:] = 0
        _core.arrange_rows(
            begin,
            columns,
            values,
            intercept=sums.unit * intercept,
            order=order,
            number=number,
            new_begin=self.begin,
            new_columns=self.columns,
            new_values=self.values,
            threads=threads,
        )
        if not np.isfinite(self.values).all():
            raise ValueError("X: expected values within the range of float32; scale the features")

    def __len__(self) -> int:
        return len(self.begin) - 1


def parts(csr: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[Any]]:
    """A matrix's row bounds, column indices and values, as the engine reads them."""
    return (
        csr.indptr.astype(np.int64),
        np.ascontiguousarray(csr.indices),
        np.ascontiguousarray(csr.data),
    )
