"""Input: odd matrices give the right result or a clear error; shapes of synthetic data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from asyncopt import _core
from asyncopt.sparse import LinearClassifier, LinearRegressor, make_like
from asyncopt.sparse.examples import ColumnSums, Examples
from asyncopt.sparse.matrices import canonical
from asyncopt.sparse.settings import LEARNING_RATES, SOLVERS
from tests.store.looks import file_size_limit


def data() -> tuple[Any, Any]:
    X, y = make_like(rows=300, columns=80, seed=1)
    return X, y


def fit(X: Any, y: Any, **how: Any) -> Any:
    return LinearClassifier(max_iter=4, tol=None, random_state=0, **how).fit(X, y).coef_


def wide_indices(X: Any) -> Any:
    wide = X.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    return wide


def unsorted(X: Any) -> Any:
    """Each row's entries from last to first."""
    flipped = X.copy()
    for first, last in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        flipped.indices[first:last] = flipped.indices[first:last][::-1]
        flipped.data[first:last] = flipped.data[first:last][::-1]
    flipped.has_sorted_indices = flipped.has_canonical_format = False
    return flipped


def duplicated(X: Any) -> Any:
    """Every entry twice, with half its value."""
    twice = sparse.csr_matrix(
        (np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape
    )
    twice.has_canonical_format = False
    return twice


def read_only(X: Any) -> Any:
    frozen = X.copy()
    for part in (frozen.data, frozen.indices, frozen.indptr):
        part.flags.writeable = False
    return frozen


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X.toarray(),
        lambda X: X.toarray(order="F"),
        lambda X: X.tocsc(),
        lambda X: X.tocoo(),
        sparse.csr_array,
        lambda X: X.astype(np.float64),
        wide_indices,
        unsorted,
        duplicated,
        read_only,
    ],
    ids=["dense", "fortran", "csc", "coo", "array", "float64", "int64", "unsorted", "twice", "ro"],
)
def test_the_same_matrix_in_other_formats(change: Any) -> None:
    X, y = data()
    before = (X.data.copy(), X.indices.copy())
    np.testing.assert_allclose(fit(change(X), y), fit(X, y), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(X.data, before[0])
    np.testing.assert_array_equal(X.indices, before[1])


def test_empty_rows_and_columns() -> None:
    X, y = data()
    holes = X.toarray()
    holes[::7] = 0
    holes[:, 3] = 0
    coef = fit(sparse.csr_array(holes), y)
    assert np.isfinite(coef).all()
    assert (coef[:, 3] == 0).all()
    nothing = sparse.csr_array((40, 5), dtype=np.float32)
    model = LinearRegressor(max_iter=50, tol=None).fit(nothing, np.full(40, 2.0))
    np.testing.assert_allclose(model.predict(nothing), 2, atol=0.01)


def test_examples_are_a_permutation() -> None:
    """Rows as ordered, columns by frequency, the intercept a column of ones."""
    X, _ = data()
    sums = ColumnSums(X.shape[1], True)
    sums.add(canonical(X))
    order = np.random.default_rng(0).permutation(X.shape[0])[:111]
    examples = Examples(X, sums, order, threads=2)
    entries = examples.begin[-1]
    copy = sparse.csr_array(
        (examples.values[:entries], examples.columns[:entries], examples.begin),
        shape=(len(examples), X.shape[1] + 1),
    ).toarray()
    whole = np.hstack([X.toarray(), np.ones((X.shape[0], 1))])
    np.testing.assert_array_equal(copy, whole[order][:, examples.columns_by_frequency])
    counts = (whole != 0).sum(axis=0)
    np.testing.assert_array_equal(sums.counts, counts)
    assert (np.diff(counts[examples.columns_by_frequency]) <= 0).all()
    mass = np.abs(whole).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        sums.curvatures, (np.abs(whole) ** 1.5 * mass**0.5).mean(axis=0), rtol=1e-5
    )
    sums.add(4 * canonical(X), slow_intercept=True)  # whose intercept has another unit
    whole[:, -1] = sums.unit / 4
    assert whole[0, -1] < 1
    mass = np.abs(whole).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        sums.curvatures, 16 * (np.abs(whole) ** 1.5 * mass**0.5).mean(axis=0), rtol=1e-5
    )


@pytest.mark.parametrize("index", [-1, 80, 2**31 - 1])
def test_bad_indices(index: int) -> None:
    X, _ = data()
    X.indices[17] = index
    sums = ColumnSums(80, True)
    with pytest.raises(ValueError, match=rf"X: expected column indices in \[0, 80\), got {index}"):
        sums.add(X)
    assert not sums.counts.any()
    assert sums.rows == 0


def test_bad_begins() -> None:
    X, _ = data()
    for place, value in ((0, 1), (5, 10**6), (-1, 3)):
        broken = X.copy()
        broken.indptr[place] = value
        with pytest.raises(ValueError, match="X: expected indptr to rise"):
            ColumnSums(80, True).add(broken)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"loss": "luck"}, "loss: expected one of 'log_loss', .*got 'luck'"),
        ({"penalty": "l0"}, "penalty: expected one of 'l2'"),
        ({"learning_rate": "fast"}, "learning_rate: expected one of"),
        ({"sync": "leashed"}, "sync: expected one of None, 'hogwild'"),
        ({"alpha": -1}, "alpha: expected a finite number of at least 0, got -1"),
        ({"alpha": float("nan")}, "alpha: expected a finite number"),
        ({"eta0": 0}, "eta0: expected a finite number above 0"),
        ({"l1_ratio": 1.5}, "l1_ratio: expected a finite number of at least 0 and at most 1"),
        ({"n_threads": 0}, "n_threads: expected an integer >= 1"),
        ({"max_iter": 1.5}, "max_iter: expected an integer >= 1"),
        ({"early_stopping": True, "validation_fraction": 1}, "validation_fraction: expected"),
    ],
)
def test_bad_parameters(how: dict[str, Any], message: str) -> None:
    X, y = data()
    with pytest.raises(ValueError, match=message):
        LinearClassifier(**how).fit(X, y)


def test_no_memory_is_an_error() -> None:
    """An error, and never a SIGBUS in the middle of training."""
    X, y = data()
    with (
        file_size_limit(100),
        pytest.raises(RuntimeError, match=r"shared memory: cannot allocate \d+ bytes"),
    ):
        LinearClassifier().fit(X, y)


def test_bad_labels_and_values() -> None:
    X, y = data()
    with pytest.raises(ValueError, match="y: expected labels of two classes or more, got 1 class"):
        LinearClassifier().fit(X, np.ones(300))
    with pytest.raises(ValueError, match="classes: expected all labels in the first call"):
        LinearClassifier().partial_fit(X, y)
    model = LinearClassifier().partial_fit(X, y, classes=[-1, 1])
    with pytest.raises(ValueError, match=r"y: expected labels among \[-1  1\], got \[7\]"):
        model.partial_fit(X, np.full(300, 7))
    huge = X.astype(np.float64)
    huge.data[0] = 1e300
    with pytest.raises(ValueError, match="X: expected values within the range of float32"):
        LinearClassifier().fit(huge, y)
    far = LinearRegressor(learning_rate="constant", eta0=1e6, tol=None)
    with pytest.raises(ValueError, match="eta0: expected a learning rate at which weights and"):
        far.fit(X, y)


def test_like_rcv1() -> None:
    X, y = make_like("rcv1", rows=5000, seed=3)
    again, labels = make_like("rcv1", rows=5000, seed=3)
    assert X.shape == (5000, 47_236)
    assert (again != X).nnz == 0
    assert (y == labels).all()
    assert X.dtype == np.float32
    assert X.indices.dtype == np.int32
    assert X.has_canonical_format
    assert X.nnz / 5000 == pytest.approx(73, rel=0.1)
    np.testing.assert_allclose(sparse.linalg.norm(X, axis=1), 1, rtol=1e-5)
    counts = np.sort(np.bincount(X.indices, minlength=47_236))[::-1]
    assert counts[:1024].sum() / counts.sum() == pytest.approx(0.5, abs=0.1)
    assert set(np.unique(y)) == {-1, 1}
    assert abs(y.mean()) < 0.1
    with pytest.raises(ValueError, match="name: expected 'rcv1'; got 'netflix'"):
        make_like("netflix")


def test_every_compiled_loss_and_sync_is_reached() -> None:
    offered = {*LinearClassifier._loss_names, *LinearRegressor._loss_names, "custom"}
    assert {loss for loss, _, _ in _core.linear_kernels()} == offered
    assert {step.removeprefix("averaged_") for _, step, _ in _core.linear_kernels()} == {
        *LEARNING_RATES.values(),
        *SOLVERS[1:],
    }
    for name in _core.linear_syncs():
        assert name in str(LinearClassifier.__doc__)
