"""Files in the svmlight / libsvm format, parsed by several threads."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from scipy import sparse

from asyncopt import _core
from asyncopt._checks import one_of, whole
from asyncopt._limits import usable_cpus

__all__ = ["Format", "Parsed", "load_svmlight"]

RANGE = 1 << 28
"""Bytes parsed by one call of the engine: half a second, after which Ctrl-C is heard."""
STREAM = 1 << 25
"""Bytes of text at a time where a file is decompressed, or is a pipe."""
DECOMPRESS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
PARSERS = {"float32": _core.SvmlightFloat32, "float64": _core.SvmlightFloat64}

Parsed = _core.SvmlightFloat32 | _core.SvmlightFloat64
"""Rows as parsed: how many, and ``move_to`` for their numbers."""


def load_svmlight(
    path: str | os.PathLike[str],
    *,
    columns: int | None = None,
    dtype: npt.DTypeLike = np.float32,
    zero_based: bool | str = "auto",
    query_id: bool = False,
    n_threads: int | None = None,
) -> tuple[Any, ...]:
    """Read a file in the svmlight / libsvm format, as scikit-learn's ``load_svmlight_file`` does.

    A line is ``label [qid:number] index:value index:value ... [# comment]``; indices rise. A value
    is the float64 nearest to its text, rounded to ``dtype``: bit for bit what scikit-learn reads.
    While it reads, it takes about twice the memory of the matrix; for data larger than memory there
    is `convert_svmlight`. Files are written by scikit-learn's ``dump_svmlight_file``.

    Args:
        path: of the file; decompressed if its name ends in ``.gz``, ``.bz2`` or ``.xz``.
        columns: of the matrix; by default as many as occur. Give it where several files belong
            together.
        dtype: of the values: float32 or float64.
        zero_based: whether the first column has index 0 in the file; ``"auto"``: if a 0 occurs.
        query_id: return the numbers after ``qid:``, too, which every row must have.
        n_threads: that parse; by default as many as there are CPUs for this process, its CPU quota
            included.

    Returns:
        X, a ``csr_array`` of shape (rows, columns) with int32 indices, and the labels, float64 of
        shape (rows,); with ``query_id`` also the queries, int64 of shape (rows,).

    Raises:
        ValueError: an argument is wrong, or the file is not of the format; the message names line,
            column, what was expected and what came.
        OSError: the file cannot be read, or is damaged.
    """
    form = Format(dtype, zero_based, query_id, n_threads)
    if columns is not None:
        whole("columns", columns, 1)
    blocks = list(form.parse(path))
    base = form.base(min((block.lowest for block in blocks), default=0))
    used = max(max((block.highest for block in blocks), default=0) + 1 - base, 1)
    if columns is not None and columns < used:
        raise ValueError(
            f"columns: expected at least {used}, as many as {os.fspath(path)} has; got {columns}"
        )
    rows = list(accumulate((block.rows for block in blocks), initial=0))
    entries = list(accumulate((block.entries for block in blocks), initial=0))
    begin = np.zeros(rows[-1] + 1, np.int64)
    y = np.empty(rows[-1])
    queries = np.empty(rows[-1], np.int64) if query_id else None
    X = sparse.csr_array((rows[-1], used if columns is None else columns), dtype=dtype)
    X.indices, X.data = np.empty(entries[-1], np.int32), np.empty(entries[-1], dtype)
    for block, (row, end), (first, last) in zip(
        blocks, pairwise(rows), pairwise(entries), strict=True
    ):
        block.move_to(
            ends=begin[row + 1 : end + 1],
            first=first,
            columns=X.indices[first:last],
            base=base,
            values=X.data[first:last],
            labels=y[row:end],
            queries=None if queries is None else queries[row:end],
            threads=form.threads,
        )
    X.indptr = begin.astype(np.int32) if entries[-1] <= np.iinfo(np.int32).max else begin
    X.has_canonical_format = True  # the parser saw to it
    return (X, y) if queries is None else (X, y, queries)


class Format:
    """Properties of a file, and settings of its parser.

    Args: as of `load_svmlight`.

    Raises:
        ValueError: one of them is wrong.
    """

    def __init__(
        self, dtype: npt.DTypeLike, zero_based: bool | str, query_id: bool, n_threads: int | None
    ) -> None:
        one_of("dtype", np.dtype(dtype).name, tuple(PARSERS))
        one_of("zero_based", zero_based, ("auto", True, False))
        if n_threads is not None:
            whole("n_threads", n_threads, 1)
        self.threads = n_threads or usable_cpus()
        self._zero_based = zero_based
        self._parser: Any = PARSERS[np.dtype(dtype).name]
        self._how = {
            "queries": bool(query_id),
            "first": int(zero_based is False),
            "threads": self.threads,
        }

    def base(self, lowest: int) -> int:
        """The index of the first column, in a file whose lowest index is known."""
        return int(lowest > 0 if self._zero_based == "auto" else not self._zero_based)

    def parse(self, path: str | os.PathLike[str]) -> Iterator[Parsed]:
        """The rows of a file in their order, some at a time.

        Raises:
            ValueError, OSError: as of `load_svmlight`.
        """
        decompress = DECOMPRESS.get(Path(path).suffix)
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if decompress is None and stat.S_ISREG(info.st_mode):
                for begin in range(0, info.st_size, RANGE):
                    yield self._parser.of_file(
                        path=os.fspath(path),
                        file=file.fileno(),
                        size=info.st_size,
                        begin=begin,
                        end=begin + RANGE,
                        **self._how,
                    )
                return
            lines = 0
            for text in _whole_lines(decompress(file) if decompress else file, path):
                block = self._parser.of_text(
                    path=os.fspath(path), text=text, lines_before=lines, **self._how
                )
                lines += block.lines
                yield block


def _whole_lines(file: BinaryIO, path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The text of a file in parts that end with a line."""
    rest = b""
    try:
        while text := file.read(STREAM):
            lines, newline, begun = text.rpartition(b"\n")
            if newline:
                yield rest + lines + newline
                rest = begun
            else:
                rest += text
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # not of the decompressor
            raise
        raise OSError(
            f"{os.fspath(path)}: expected a whole compressed file, got: {error}; get it again"
        ) from error
    yield rest
