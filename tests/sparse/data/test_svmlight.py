"""Files in the svmlight format: equal to scikit-learn bit for bit; bad files are refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from asyncopt.sparse import load_svmlight, make_like
from asyncopt.sparse.data import svmlight

ROWS = "1 1:0.5 3:2e-1 # a comment\n\n-1 2:1\r\n0.25\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "rows.svm"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def check_as_scikit_learn(path: Path, **how: Any) -> None:
    """Shapes, and every bit of the numbers."""
    for dtype in (np.float64, np.float32):
        ours, theirs = (
            load_svmlight(path, dtype=dtype, **how),
            load_svmlight_file(str(path), dtype=dtype, **how),
        )
        assert ours[0].shape == theirs[0].shape
        assert ours[0].dtype == theirs[0].dtype == dtype
        for part in ("indptr", "indices"):
            np.testing.assert_array_equal(getattr(ours[0], part), getattr(theirs[0], part))
            assert getattr(ours[0], part).dtype == np.int32
        assert ours[0].data.tobytes() == theirs[0].data.tobytes()
        assert ours[1].tobytes() == theirs[1].tobytes()
        assert len(ours) == len(theirs)
        np.testing.assert_array_equal(ours[2:], theirs[2:])


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.floats(-1e30, 1e30).map(lambda x: f"{x:.25g}"),
    st.floats(-1e30, 1e30).map(lambda x: f"{x:+.3f}"),
    st.integers(-(10**25), 10**25).map(str),
    st.sampled_from([".5", "5.", "-0", "1E5", "1e-400", "inf", "-Infinity", "+.5e+2"]),
)
blanks = st.sampled_from([" ", "\t", "  ", " \v\f"])


@st.composite
def lines(draw: st.DrawFn, lowest: int) -> str:
    """A row, or none, in one of many styles."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(["", "# 1:2", " \t"]))
    indices = sorted(draw(st.sets(st.integers(lowest, 3000), max_size=5)))
    parts = [draw(numbers), f"qid:{draw(st.integers(-(2**63), 2**63 - 1))}"]
    parts += [f"{index}:{draw(numbers)}" for index in indices]
    comment = draw(st.sampled_from(["", "#", " # 7:7 x"]))
    return draw(blanks).join(parts) + comment


@st.composite
def files(draw: st.DrawFn) -> str:
    """A text with at least one row."""
    lowest = draw(st.integers(0, 1))
    text = draw(st.lists(lines(lowest), max_size=12))
    text.append(f"1 qid:1 {lowest}:1")
    ends = draw(st.lists(st.sampled_from(["\n", "\r\n"]), min_size=len(text), max_size=len(text)))
    ends[-1] = draw(st.sampled_from(["", "\n"]))
    return "".join(line + end for line, end in zip(text, ends, strict=True))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=files(), zero_based=st.sampled_from(["auto", True]), query_id=st.booleans())
def test_as_scikit_learn(tmp_path: Path, text: str, zero_based: Any, query_id: bool) -> None:
    check_as_scikit_learn(write(tmp_path, text), zero_based=zero_based, query_id=query_id)


@pytest.mark.parametrize("text", ["", "\n", "# nothing", "1", "1\n2\n", "1 1:1", "1 0:1", ROWS])
def test_small_files(tmp_path: Path, text: str) -> None:
    check_as_scikit_learn(write(tmp_path, text))


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_pieces_and_threads_make_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    """A file that the engine cuts into pieces, read by several calls."""
    X, y = make_like(rows=3000, seed=1)
    path = tmp_path / "rows.svm"
    dump_svmlight_file(X, y, str(path), zero_based=False)
    monkeypatch.setattr(svmlight, "RANGE", (path.stat().st_size * 2) // 5)
    assert path.stat().st_size > 2_000_000
    read, labels = load_svmlight(path, columns=X.shape[1], n_threads=n_threads)
    assert (labels == y).all()
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(read, part), getattr(X, part))
    assert read.has_canonical_format


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    compress: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr(svmlight, "STREAM", 7)  # shorter and longer than a line
    plain = write(tmp_path, ROWS * 20)
    packed = plain.with_suffix(suffix)
    packed.write_bytes(compress(plain.read_bytes()))
    X, y = load_svmlight(packed)
    expected, labels = load_svmlight(plain)
    np.testing.assert_array_equal(X.toarray(), expected.toarray())
    assert (y == labels).all()
    packed.write_bytes(compress((ROWS * 20 + "1 x\n").encode()))
    with pytest.raises(ValueError, match=r"rows\.\w+: line 81, column 3: expected index:value"):
        load_svmlight(packed)
    packed.write_bytes(compress(plain.read_bytes())[:-9])
    with pytest.raises(OSError, match="expected a whole compressed file, got: "):
        load_svmlight(packed)
    packed.write_bytes(b"not compressed")
    with pytest.raises(OSError, match=r"expected a whole compressed file, got: "):
        load_svmlight(packed)


def test_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(ROWS,))
    writer.start()
    X, y = load_svmlight(pipe)
    writer.join()
    assert X.shape == (3, 3)
    assert y.tolist() == [1, -1, 0.25]


def test_columns_and_bases(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    assert load_svmlight(path)[0].shape == (3, 3)
    assert load_svmlight(path, zero_based=False)[0].shape == (3, 3)
    assert load_svmlight(path, zero_based=True)[0].shape == (3, 4)
    assert load_svmlight(path, columns=10)[0].shape == (3, 10)
    with pytest.raises(ValueError, match=r"columns: expected at least 3, as many as .* has; got 2"):
        load_svmlight(path, columns=2)
    with pytest.raises(ValueError, match="line 1, column 3: expected an index of at least 1, as z"):
        load_svmlight(write(tmp_path, "1 0:1"), zero_based=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1:1\n1 2:3 2:4\n", r"rows\.svm: line 2, column 7: expected an index above 2, that bef"),
        ("1,2 1:1\n", "line 1, column 1: expected one label, got '1,2'; rows with several are"),
        ("1 1:1e39\n", "line 1, column 5: expected a number within the range of float32, got '1e3"),
        ("1 3000000000:1", "line 1, column 3: expected an index of at most 2147483647, got '3000"),
        (b"\x7fELF\0\0", r"line 1, column 1: expected a number as label, got '\\x7fELF\\x00\\x00'"),
    ],
)
def test_what_is_not_of_the_format(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_svmlight(write(tmp_path, text))


def test_bad_arguments(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    with pytest.raises(
        ValueError, match="dtype: expected one of 'float32', 'float64'; got 'int32'"
    ):
        load_svmlight(path, dtype=np.int32)
    with pytest.raises(ValueError, match="zero_based: expected one of 'auto', True, False; got 2"):
        load_svmlight(path, zero_based=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="columns: expected an integer >= 1, got 0"):
        load_svmlight(path, columns=0)
    with pytest.raises(ValueError, match="n_threads: expected an integer >= 1, got 0"):
        load_svmlight(path, n_threads=0)
    with pytest.raises(ValueError, match="line 1, column 3: expected qid:number after the label"):
        load_svmlight(path, query_id=True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_svmlight(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        load_svmlight(tmp_path)
    with pytest.raises(TypeError):
        load_svmlight(io.BytesIO(b"1 1:1"))  # type: ignore[arg-type]
