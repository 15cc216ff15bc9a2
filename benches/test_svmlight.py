"""Reading files in the svmlight format: bytes of text per second at 1 and 2 threads.

Beside scikit-learn's reader and svmloader's, the fastest other one that pip installs: svm2csr
has no wheels for Python 3.10 and later. Two texts: numbers of 16 digits in the shape of RCV1, as
scikit-learn writes float32, and ones, as in url and kdda. All read float64 from the page cache; the
floor reads the file into memory.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from asyncopt.sparse import load_svmlight, make_like
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay

pytestmark = pytest.mark.benchmark(timer=replay)

TWO, ONE = "asyncopt, 2 threads", "asyncopt, 1 thread"
SKLEARN, SVMLOADER, FLOOR = "scikit-learn", "svmloader", "reading the bytes"


@pytest.fixture(scope="module", params=["16 digits", "ones"])
def text(request: pytest.FixtureRequest, quick: bool, tmp_path_factory: Any) -> tuple[str, Path]:
    X, y = make_like("rcv1", rows=1000 if quick else 20_000)
    if request.param == "ones":
        X.data[:] = 1
    path = tmp_path_factory.mktemp("svmlight") / "rows.svm"
    dump_svmlight_file(X, y, str(path), zero_based=False)
    return request.param, path


def readers(path: Path) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {
        TWO: lambda: load_svmlight(path, dtype=np.float64, n_threads=2),
        ONE: lambda: load_svmlight(path, dtype=np.float64, n_threads=1),
    }
    if importlib.util.find_spec("svmloader") is not None:  # pip install svmloader
        from svmloader import load_svmfile

        found[SVMLOADER] = lambda: load_svmfile(str(path), "d", "d", zero_based=False)
    found[SKLEARN] = lambda: load_svmlight_file(str(path), zero_based=False)
    found[FLOOR] = path.read_bytes
    return found


def test_reading(benchmark: Any, text: tuple[str, Path], quick: bool, say: Say) -> None:
    name, path = text
    size = path.stat().st_size

    def sampler(read: Callable[[], Any]) -> Callable[[], float]:
        def sample() -> float:
            begin = time.perf_counter()
            read()
            return (time.perf_counter() - begin) / size

        return sample

    contenders = readers(path)
    expected, labels = contenders[SKLEARN]()
    for reader, read in contenders.items():  # also warms up
        if reader != FLOOR:
            X, y = read()
            assert (y == labels).all(), reader
            for part in ("data", "indices", "indptr"):
                np.testing.assert_allclose(
                    getattr(X, part), getattr(expected, part), rtol=1e-15, err_msg=reader
                )
        else:
            read()
    comparison = interleave(
        {reader: sampler(read) for reader, read in contenders.items()}, 3 if quick else ROUNDS
    )
    lines = record(
        benchmark,
        comparison,
        [
            Pair(TWO, other, 1.0 if other in (SKLEARN, SVMLOADER) else None)
            for other in contenders
            if other != TWO
        ],
        suite="svmlight",
        case={"text": name, "bytes": size},
        rows={reader: {"bytes_per_second": 1 / comparison.median(reader)} for reader in contenders},
    )
    for reader in contenders:
        say(f"{name}, {reader}: {1e-6 / comparison.median(reader):,.0f} MB/s")
    for line in lines:
        say(line)
