"""Atomic operations in compiled functions: nothing is lost, nowhere else is written."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from asyncopt.sparse import atomic

from . import alone

DTYPES = ("float32", "float64", "int32", "int64", "uint32", "uint64")
THREADS = 4
BINS = np.arange(1_000_000) % 2  # some milliseconds, so that threads meet


def together(run: Callable[..., object], *arguments: Any) -> None:
    """Calls a function that releases the GIL on several threads, spread over the cores."""
    barrier = threading.Barrier(THREADS)

    def member(core: int) -> None:
        os.sched_setaffinity(0, {core})  # of this thread; the kernel might begin all on one
        barrier.wait()
        run(*arguments)

    cores = itertools.cycle(os.sched_getaffinity(0))
    threads = [threading.Thread(target=member, args=(next(cores),)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@numba.njit(nogil=True)
def count(counts: Any, bins: Any) -> None:
    for u in bins:
        atomic.add(counts, u, 1)


@numba.njit(nogil=True)
def count_racily(counts: Any, bins: Any) -> None:
    for u in bins:
        counts[u] += 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_addition_is_lost(dtype: str) -> None:
    counts = np.zeros(3, dtype)
    together(count, counts, BINS)
    np.testing.assert_array_equal(counts, [THREADS * len(BINS) / 2] * 2 + [0])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="threads take turns on one core")
def test_without_atomics_additions_are_lost() -> None:
    """A control: the test above can fail."""
    for _ in range(100):
        counts = np.zeros(3)
        together(count_racily, counts, BINS)
        if counts.sum() < THREADS * len(BINS):
            return
    raise AssertionError("expected a race, saw none")


@numba.njit(nogil=True)
def raise_to(array: Any, value: Any) -> None:
    seen = array[0]
    while value > seen:
        found = atomic.compare_exchange(array, 0, seen, value)
        if found == seen:
            return
        seen = found


@numba.njit(nogil=True)
def offer(array: Any, tickets: Any) -> None:
    for _ in range(20_000):
        raise_to(array, atomic.add(tickets, 0, 1))


@numba.njit(nogil=True)
def increment_locked(lock: Any, plain: Any, times: Any) -> None:
    for _ in range(times):
        while atomic.compare_exchange(lock, 0, 0, 1, order="acquire") != 0:
            pass
        plain[0] += 1
        plain[1] += 2
        atomic.exchange(lock, 0, 0, order="release")


def test_what_compare_exchange_makes() -> None:
    """A maximum, and a lock."""
    most, tickets = np.full(1, -1.0), np.zeros(1, np.int64)
    together(offer, most, tickets)
    assert tickets[0] == THREADS * 20_000
    assert most[0] == tickets[0] - 1
    plain = np.zeros(2)
    together(increment_locked, np.zeros(1, np.int32), plain, 5000)
    np.testing.assert_array_equal(plain, [THREADS * 5000, 2 * THREADS * 5000])


@numba.njit
def all_of_them(array: Any, index: Any, value: Any) -> Any:
    return (
        atomic.add(array, index, value),
        atomic.exchange(array, index, 7),
        atomic.compare_exchange(array, index, 6, 9),
        atomic.compare_exchange(array, index, 7, 9),
    )


@pytest.mark.slow
@pytest.mark.parametrize("python", [False, True], ids=["compiled", "python"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operation_returns_what_was_there(dtype: str, python: bool) -> None:
    array = np.array([1, 2, 3], dtype)
    run = all_of_them.py_func if python else all_of_them
    assert run(array, 1, 3) == (2, 5, 7, 7)
    np.testing.assert_array_equal(array, [1, 9, 3])
    assert array.dtype == dtype
    assert type(run(array, 1, 3)[0]) is (float if "float" in dtype else int)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: np.asfortranarray(a),
        lambda a: a[::2, ::-1],
        lambda a: a.T[1:],
        lambda a: np.zeros((3, 4), [("key", "i8"), ("weight", "f8")])["weight"],
    ],
    ids=["C", "F", "strided", "transposed", "field"],
)
def test_elements_of_any_array(view: Any) -> None:
    """As numba's own indexing: a tuple, from the end where below 0, by the strides."""
    array = view(np.arange(20.0).reshape(4, 5))
    for index in ((0, 0), (1, -1), (-2, 2), (np.int32(1), np.uint8(1))):
        expected = array.copy()
        expected[index] += 0.5
        assert add_at(array, index) == expected[index] - 0.5
        np.testing.assert_array_equal(array, expected)
    scalar = np.array(3.0)
    assert add_at(scalar, ()) == 3
    assert scalar == 3.5


@numba.njit
def add_at(array: Any, index: Any) -> Any:
    return atomic.add(array, index, 0.5)


def test_bits_are_compared() -> None:
    array = np.array([0.0, np.nan])
    assert atomic.compare_exchange(array, 0, -0.0, 1.0) == 0
    assert np.isnan(atomic.compare_exchange(array, 1, array[1], 1.0))
    np.testing.assert_array_equal(array, [0, 1])


@numba.njit(boundscheck=True)
def add_checked(array: Any, index: Any) -> Any:
    return atomic.add(array, index, 1)


def test_bounds() -> None:
    for index in (3, -4):
        array = np.zeros(3)
        with pytest.raises(IndexError, match="index is out of bounds"):
            add_checked(array, index)
        with pytest.raises(IndexError, match="index is out of bounds"):
            atomic.exchange(array, index, 1)


def test_alignment() -> None:
    """Numba's types do not contain the alignment, so it is checked at run time."""
    apart, packed = (np.zeros(3, "i1,f8")["f1"], np.zeros(25, np.int8)[1:].view(float))
    for array in (apart, packed):
        with pytest.raises(ValueError, match=r"array: expected elements at multiples .*copy"):
            add_at(array, 1)
        with pytest.raises(ValueError, match=r"array: expected elements at multiples .*copy"):
            atomic.compare_exchange(array, 1, 0, 1)
        np.testing.assert_array_equal(array, 0)


READ_ONLY = np.zeros(3)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], 0, 1), "array: expected a numpy array, got .*list"),
        ((np.zeros(3, np.int16), 0, 1), "array: expected a dtype of float32, .*; got int16; use"),
        ((np.zeros(3, complex), 0, 1), "array: expected a dtype of float32, .*; got complex128"),
        ((READ_ONLY, 0, 1), "array: expected a writeable array, got a read-only one; use .copy"),
        ((np.zeros(3), 1.5, 1), "index: expected integers, .*; got float64"),
        ((np.zeros(3), np.arange(2), 1), "index: expected integers, .*; got array"),
        ((np.zeros(3), (0, 0), 1), "index: expected as many integers as dimensions, 1; got 2"),
        ((np.zeros((3, 3)), 0, 1), "index: expected as many integers as dimensions, 2; got 1"),
        ((np.zeros(3, int), 0, 1.5), "value: expected a number for int64, got float64; cast it"),
        ((np.zeros(3), 0, 1j), "value: expected a number for float64, got complex128; cast it"),
        ((np.zeros(3), 0, "1"), "value: expected a number for float64, got unicode_type"),
    ],
)
def test_wrong_arguments(arguments: Any, message: str) -> None:
    """Wrong arguments raise while compiling, and in plain Python."""
    with pytest.raises(TypingError, match=message):
        all_of_them(*arguments)
    with pytest.raises(TypeError, match=message):
        atomic.add(*arguments)
    array, index, value = arguments
    with pytest.raises(TypeError, match=message.replace("value", "expected", 1)):
        atomic.compare_exchange(array, index, value, value)


def test_orders() -> None:
    @numba.njit
    def chosen(array: Any, order: Any) -> Any:
        return atomic.add(array, 0, 1, order)

    with pytest.raises(TypingError, match=r"order: expected a literal of relaxed, .*unicode_type"):
        chosen(np.zeros(1), "relaxed")
    with pytest.raises(TypeError, match=r"order: expected a literal of relaxed, .*got fast"):
        atomic.add(np.zeros(1), 0, 1, order="fast")

    @numba.njit
    def every(array: Any) -> None:
        atomic.add(array, 0, 1)
        atomic.add(array, 0, 1, order="acquire")
        atomic.add(array, 0, 1, order="release")
        atomic.exchange(array, 0, 1, "acq_rel")
        atomic.compare_exchange(array, 0, 1, 2, "release")
        atomic.compare_exchange(array, 0, 1, 2, order="acq_rel")
        atomic.compare_exchange(array, 0, 1, 2, order="seq_cst")

    array = np.zeros(1, np.int64)
    every(array)
    assert array[0] == 2
    instructions = [
        line.strip()
        for line in next(iter(every.inspect_llvm().values())).splitlines()
        if " atomicrmw " in line or " cmpxchg " in line
    ]
    for part in (
        "add ptr .* monotonic,", "add ptr .* acquire,", "add ptr .* release,",
        "xchg ptr .* acq_rel,", "release monotonic,", "acq_rel acquire,", "seq_cst seq_cst,",
    ):  # fmt: skip
        assert any(re.search(part, line) for line in instructions), part


@pytest.mark.slow
def test_prange_and_the_cache_of_another_process(tmp_path: Path) -> None:
    module = """
import numba
import numpy as np
from asyncopt.sparse import atomic

@numba.njit(parallel=True, cache=True)
def histogram(bins, counts):
    for i in numba.prange(len(bins)):
        atomic.add(counts, (bins[i], 1), 0.5)

bins = np.arange(5_000_000) % 3
counts = np.zeros((3, 2), np.float32)
histogram(bins, counts)
assert numba.get_num_threads() == 4
print(counts[:, 1].tolist(), sum(histogram.stats.cache_hits.values()))
"""
    (tmp_path / "histogram.py").write_text(module)  # numba caches what is in a file
    expected = np.bincount(np.arange(5_000_000) % 3) / 2
    environment = {"NUMBA_NUM_THREADS": "4", "NUMBA_CACHE_DIR": str(tmp_path)}
    for hits in (0, 1):
        printed = alone.run("import histogram", PYTHONPATH=str(tmp_path), **environment)
        assert printed == f"{expected.tolist()} {hits}\n"
