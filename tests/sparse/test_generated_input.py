"""Matrices in thousands of forms: the result of the same matrix as plain CSR, or a clear error.

`make test-python-address` runs this under the address sanitizer, which sees any read or write
outside an array.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from asyncopt import _core
from asyncopt.sparse import (
    CustomLoss,
    LinearClassifier,
    LinearRegressor,
    MatrixFactorization,
    convert_svmlight,
    load_svmlight,
    open_csr,
    row_blocks,
    save_csr,
    syncs,
)
from asyncopt.sparse.atomic import add, compare_exchange, exchange
from tests.chaos.scene import often

generated = settings(
    phases=[Phase.generate, Phase.shrink],
    max_examples=often(40, 10_000),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
Draw = st.DrawFn
Change = Callable[[Any], Any]

CLASSIFYING: tuple[str | CustomLoss, ...] = ("log_loss", "hinge", "squared_hinge")
REGRESSING: tuple[str | CustomLoss, ...] = ("squared_error", "huber")
SQUARES = CustomLoss(lambda p, t: ((p - t) ** 2 / 2, p - t))

# --- Matrices ------------------------------------------------------------------------------------


@st.composite
def matrices(draw: Draw, rows: int | None = None, columns: int | None = None) -> Any:
    """Canonical CSR in float32, with empty rows and columns; sums of its values are exact."""
    shape = rows or draw(st.integers(1, 12)), columns or draw(st.integers(1, 20))
    quarters = draw(
        hnp.arrays(np.int8, shape, elements=st.integers(-8, 8), fill=st.just(np.int8(0)))
    )
    return sparse.csr_array(quarters.astype(np.float32) / 4)


def with_parts(X: Any, change: Change) -> Any:
    """The same entries, in changed arrays."""
    changed = X.copy()
    changed.data, changed.indices, changed.indptr = map(change, (X.data, X.indices, X.indptr))
    return changed


def wide(X: Any) -> Any:
    return with_parts(X, lambda part: part.astype(np.int64) if part.dtype == np.int32 else part)


def read_only(X: Any) -> Any:
    def frozen(part: Any) -> Any:
        part = part.copy()
        part.flags.writeable = False
        return part

    return with_parts(X, frozen)


def mapped(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not array.size:  # nothing cannot be mapped
        return array
    with tempfile.TemporaryFile() as file:
        file.write(array.tobytes())
        file.flush()
        return np.memmap(file, array.dtype, "r", shape=array.shape)


def strided(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(array, 2, axis=-1)[..., ::2]


def foreign(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """In the byte order of other machines."""
    return part.astype(part.dtype.newbyteorder())


def shuffled(X: Any, twice: bool = False) -> Any:
    """Each row's entries from last to first, though it says they are sorted; twice: in halves."""
    parts = [slice(*pair) for pair in zip(X.indptr, X.indptr[1:], strict=False)]
    times = 2 if twice else 1
    changed = X.copy()
    for name, part in (("indices", X.indices), ("data", X.data / times)):
        rows = [np.tile(part[one][::-1], times) for one in parts]
        setattr(changed, name, np.concatenate(rows).astype(part.dtype))
    changed.indptr = X.indptr * times
    changed.has_canonical_format = True
    return changed


FORMS: dict[str, Change] = {
    "64-bit indices": wide,
    "unsigned indices": lambda X: with_parts(
        X, lambda part: part.astype(np.uint32) if part.dtype == np.int32 else part
    ),
    "unsorted": shuffled,
    "twice": lambda X: shuffled(X, twice=True),
    "read-only": read_only,
    "mapped": lambda X: with_parts(X, mapped),
    "strided": lambda X: with_parts(X, strided),
    "foreign": lambda X: with_parts(X, foreign),
    "matrix": sparse.csr_matrix,
    **{name: methodcaller("asformat", name) for name in ("csc", "coo", "lil", "dok", "dia", "bsr")},
    "a block": lambda X: X.tobsr(blocksize=X.shape),
    "float64": lambda X: X.astype(np.float64),
    "dense": lambda X: X.toarray(),
    "Fortran order": lambda X: X.toarray(order="F"),
    "read-only dense": lambda X: np.frombuffer(X.toarray().tobytes(), X.dtype).reshape(X.shape),
    "mapped dense": lambda X: mapped(X.toarray()),
    "strided dense": lambda X: strided(X.toarray()),
    "reversed dense": lambda X: X.toarray()[::-1, ::-1].copy()[::-1, ::-1],
    "list": lambda X: X.toarray().tolist(),
}


@st.composite
def outside(draw: Draw, X: Any) -> Any:
    """A matrix in some format, of which a number is where it should not be."""
    broken = X.asformat(draw(st.sampled_from(["csr", "csc", "bsr", "coo"]))).copy()
    if draw(st.booleans()) and broken.format != "coo":
        broken = wide(broken)
    names = ["col", "row"] if broken.format == "coo" else ["indices", "indptr"]
    name = draw(st.sampled_from(names))
    part = getattr(broken, name).copy()
    kind = draw(st.sampled_from(["number", "short", "long", "float", "data"]))
    if kind == "number":
        place = draw(st.integers(0, len(part) - 1))
        info = np.iinfo(part.dtype)
        right = part[place]
        part[place] = draw(
            st.one_of(st.integers(info.min, -1), st.integers(int(part.max()) + 1, info.max))
        )
        low, high = int(part.min()), int(part.max())
        limit = max(X.shape) if name != "indptr" else 0
        assume(low < 0 or high >= limit)
        assume(part[place] != right)
    elif kind == "short":
        part = part[:-1]
    elif kind == "long":
        part = np.append(part, part[-1])
    elif kind == "float":
        part = part + 0.5
    if kind == "data":
        broken.data = broken.data[:-1]
    elif broken.format == "coo":
        coords = list(broken.coords)
        coords[names.index(name) - 1] = part
        broken.coords = tuple(coords)
    else:
        setattr(broken, name, part)
    return broken


def with_value(X: Any, value: float) -> Any:
    """Somewhere, in a matrix that has an entry."""
    changed = X.astype(np.float64)
    changed.data[len(changed.data) // 2] = value
    return changed


WRONG: dict[str, tuple[Change, str]] = {
    "nan": (lambda X: with_value(X, math.nan), "X contains NaN"),
    "infinity": (lambda X: with_value(X, -math.inf), "X contains infinity"),
    "dense nan": (lambda X: with_value(X, math.nan).toarray(), "X contains NaN"),
    "no rows": (lambda X: X[:0], r"0 sample\(s\)"),
    "no columns": (lambda X: X[:, :0], r"0 feature\(s\)|X has 0 features"),
    "complex": (lambda X: X.astype(np.complex64), "Complex data not supported"),
    "dimensions": (lambda X: X.toarray()[None], "X|dim 3"),
    "a row": (lambda X: X.toarray()[0], "Expected 2D array"),
    "a sparse row": (lambda X: sparse.coo_array(X.toarray()[0]), "X: expected a matrix"),
    "a word": (lambda X: "X", "Expected 2D array|X"),
    "words": (lambda X: np.full(X.shape, "x"), "could not convert string to float|arrays of byte"),
    "nothing": (lambda X: None, "Expected 2D array|NoneType|X"),
}

# --- Models -----------------------------------------------------------------------------


@st.composite
def linear(draw: Draw, threads: int) -> Any:
    how: dict[str, Any] = {
        "penalty": draw(st.sampled_from(["l2", "l1", "elasticnet", None])),
        "learning_rate": draw(st.sampled_from(["constant", "inverse", "adagrad"])),
        "sync": draw(st.sampled_from(syncs())),
        "fit_intercept": draw(st.booleans()),
        "shuffle": draw(st.booleans()),
        "alpha": 0.01,
        "eta0": 0.01,
        "max_iter": draw(st.integers(1, 3)),
        "tol": None,
        "n_threads": threads,
        "random_state": 0,
    }
    if draw(st.booleans()):
        return LinearClassifier(draw(st.sampled_from([*CLASSIFYING, SQUARES])), **how)
    return LinearRegressor(draw(st.sampled_from([*REGRESSING, SQUARES])), **how)


@st.composite
def factorization(draw: Draw, threads: int) -> Any:
    loss = draw(st.sampled_from(_core.factor_losses()))
    known = [sync for sync in _core.factor_syncs() if loss != "bpr" or sync != "ordered"]
    return MatrixFactorization(
        loss,
        n_factors=draw(st.integers(1, 20)),
        sync=draw(st.sampled_from(known)),
        max_iter=draw(st.integers(1, 3)),
        tol=None,
        n_threads=threads,
        random_state=0,
    )


MODELS = {"linear": linear, "factorization": factorization}


def labels(rows: int) -> npt.NDArray[np.int64]:
    return np.arange(rows) % 2


def results(model: Any, X: Any, rows: int) -> list[Any]:
    """Results of all methods of a model on a matrix."""
    model = copy.deepcopy(model)
    if isinstance(model, MatrixFactorization):
        fitted = model.fit(X)
        found = [fitted.user_factors_, fitted.item_factors_, fitted.user_biases_, fitted.mean_]
        found += [*fitted.recommend(np.arange(rows), 3, seen=X), fitted.partial_fit(X).item_biases_]
        score = fitted.score(X)  # nan where a user likes every item, and for a single rating
        return [*found, 0.0 if math.isnan(score) else score]
    y = labels(rows)
    fitted = model.fit(X, y, np.linspace(0, 2, rows))
    found = [fitted.coef_, fitted.intercept_, fitted.predict(X), fitted.score(X, y)]
    if isinstance(model, LinearClassifier):
        found.append(fitted.decision_function(X))
    return [*found, fitted.partial_fit(X, y).coef_]


def parts_of(X: Any) -> list[tuple[Any, ...]]:
    """Everything of an input that a call could change."""
    if isinstance(X, np.ndarray):
        return [(X.dtype, X.shape, X.strides, X.tobytes())]
    if not sparse.issparse(X):
        return [(repr(X),)]
    parts = [getattr(X, name, None) for name in ("data", "indices", "indptr", "rows", "coords")]
    return [(str(X.dtype), X.shape, X.format, *map(repr, parts))]


def suits(model: Any, X: Any) -> bool:
    """Two classes; for a ranking something that somebody likes, else a rating."""
    if isinstance(model, MatrixFactorization):
        return bool((X.data > 0).any() if model.loss == "bpr" else X.nnz > 1)
    return bool(X.shape[0] > 1)


@pytest.mark.parametrize("kind", MODELS)
def test_other_forms_of_the_same_matrix(kind: str) -> None:
    """Other forms give the same bits and are not modified."""

    @generated
    @given(st.data(), MODELS[kind](threads=1), matrices(), st.sampled_from(sorted(FORMS)))
    def check(data: st.DataObject, model: Any, X: Any, form: str) -> None:
        assume(suits(model, X))
        other = FORMS[form](X)
        before = parts_of(other)
        ours, plain = results(model, other, X.shape[0]), results(model, X, X.shape[0])
        assert parts_of(other) == before
        for mine, expected in zip(ours, plain, strict=True):
            np.testing.assert_array_equal(mine, expected)
            assert np.isfinite(np.where(np.isneginf(mine), 0, mine)).all()

    check()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:sync=.ordered.:RuntimeWarning")
@pytest.mark.parametrize("kind", MODELS)
def test_threads(kind: str) -> None:
    @generated
    @given(MODELS[kind](threads=2), matrices(), st.sampled_from(sorted(FORMS)))
    def check(model: Any, X: Any, form: str) -> None:
        assume(suits(model, X))
        found, plain = (results(model, each, X.shape[0]) for each in (FORMS[form](X), X))
        for mine, expected in zip(found, plain, strict=True):
            assert np.shape(mine) == np.shape(expected)
            assert np.isfinite(np.where(np.isneginf(mine), 0, mine)).all()

    check()


def attempts(model: Any, X: Any, rows: int) -> list[tuple[str, Callable[[Any], object]]]:
    """All methods of a model that take a matrix, and its name in their messages."""
    fresh, fitted = copy.deepcopy(model), copy.deepcopy(model)
    if isinstance(model, MatrixFactorization):
        fitted.fit(X)
        return [
            ("X", fresh.fit),
            ("X", fitted.partial_fit),
            ("X", fitted.score),
            ("seen", lambda X: fitted.recommend([0], seen=X)),
        ]
    y = labels(rows)
    fitted.fit(X, y)
    return [
        ("X", lambda X: fresh.fit(X, y)),
        ("X", lambda X: fitted.partial_fit(X, y)),
        ("X", fitted.predict),
        ("X", lambda X: fitted.score(X, y)),
    ]


def state(model: Any) -> list[bytes]:
    names = ("coef_", "intercept_", "user_factors_", "item_factors_", "item_biases_")
    return [np.asarray(getattr(model, name, 0)).tobytes() for name in names]


@pytest.mark.filterwarnings("ignore:sync=.ordered.:RuntimeWarning")
@pytest.mark.parametrize("kind", MODELS)
def test_indices_outside(kind: str, tmp_path: Path) -> None:
    """Every method refuses indices out of range, before it reads or writes there."""

    @generated
    @given(st.data(), MODELS[kind](threads=2), matrices())
    def check(data: st.DataObject, model: Any, X: Any) -> None:
        assume(suits(model, X) and X.nnz)
        broken = data.draw(outside(X))
        for name, attempt in attempts(model, X, X.shape[0]):
            with pytest.raises(ValueError, match=rf"^{name}: expected "):
                attempt(broken)
        with pytest.raises(ValueError, match=r"^X: expected "):
            save_csr(tmp_path / "rows", broken, labels(X.shape[0]))
        if broken.format == "csr":
            with pytest.raises(ValueError, match=r"^X: expected "):
                list(row_blocks(broken, labels(X.shape[0]), 2))

    check()


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_no_matrix_of_numbers(kind: str) -> None:
    @generated
    @given(MODELS[kind](threads=1), matrices(), st.sampled_from(sorted(WRONG)))
    def check(model: Any, X: Any, name: str) -> None:
        assume(suits(model, X) and X.nnz)
        change, message = WRONG[name]
        wrong = change(X)
        for argument, attempt in attempts(model, X, X.shape[0]):
            if argument == "X":
                with pytest.raises((ValueError, TypeError), match=message):
                    attempt(wrong)
            elif "nan" not in name and "inf" not in name and wrong is not None:
                with pytest.raises(ValueError, match=r"^seen: expected "):
                    attempt(wrong)

    check()


# --- Labels, weights, pairs ----------------------------------------------------------------------

NUMBERS = st.floats(-3, 3, width=32)


@st.composite
def bad_numbers(draw: Draw, rows: int) -> Any:
    """Not one finite number of a common size for each row."""
    array = np.array(draw(st.lists(NUMBERS, min_size=rows, max_size=rows)))
    kind = draw(st.sampled_from(["length", "shape", "value", "words", "size"]))
    if kind == "length":
        return np.append(array, array[: draw(st.integers(1, rows))])
    if kind == "shape":
        return draw(st.sampled_from([np.stack([array, array]), array[0]]))
    if kind == "words":
        return np.full(rows, "x", object)
    values = [math.nan, math.inf, -math.inf] if kind == "value" else [1e39, -1e300]
    array[draw(st.integers(0, rows - 1))] = draw(st.sampled_from(values))
    return array


@generated
@given(st.data(), linear(threads=1), matrices(rows=7))
def test_labels_and_weights(data: st.DataObject, model: Any, X: Any) -> None:
    """Neither a fit nor what was fitted before survives wrong ones unnoticed."""
    y = labels(7)
    fitted = copy.deepcopy(model).fit(X, y)
    before = state(fitted)
    wrong = data.draw(bad_numbers(rows=7))
    message = "^y|y contains|inconsistent|sample_weight|weights|Unknown label|float|dtype='numeric'"
    if isinstance(model, LinearRegressor):
        for fit in (model.fit, fitted.partial_fit):
            with pytest.raises((ValueError, TypeError), match=message):
                fit(X, wrong)
    assume(np.ndim(wrong))  # one weight is that of every example
    for call in (model.fit, fitted.partial_fit):
        with pytest.raises((ValueError, TypeError), match=message):
            call(X, y, sample_weight=wrong)
    assert state(fitted) == before


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(7), "^y: expected labels of two classes or more, got 1 class"),
        (np.full(7, "spam"), "^y: expected labels of two classes or more, got 1 class"),
        (np.linspace(0, 1, 7), "Unknown label type"),
        (np.array([0, 1, math.nan, 0, 1, 0, 1]), "y contains NaN"),
        (np.zeros((7, 2)), "y should be a 1d array"),
        ([], r"inconsistent|0 sample\(s\)"),
        (None, "y"),
    ],
)
def test_labels_that_are_no_classes(y: Any, message: str) -> None:
    X = sparse.eye_array(7, format="csr")
    with pytest.raises(ValueError, match=message):
        LinearClassifier().fit(X, y)
    with pytest.raises(ValueError, match=r"^classes: expected labels of two classes or more"):
        LinearClassifier().partial_fit(X, np.zeros(7), classes=[0])
    for weight in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=r"^class_weight: expected finite numbers of at least"):
            LinearClassifier(class_weight={0: weight, 1: 1.0}).fit(X, labels(7))


@generated
@given(st.data(), linear(threads=1), matrices(rows=5), st.sampled_from(sorted(FORMS)))
def test_widths(data: st.DataObject, model: Any, X: Any, form: str) -> None:
    """A fitted model takes dense and sparse rows of its width, and no others."""
    y = labels(5)
    model.fit(X, y)
    other = data.draw(matrices())
    assume(suits(model, other))
    wrong = other.shape[1] != X.shape[1]
    for method in (model.predict, lambda X: model.partial_fit(X, labels(X.shape[0]))):
        if not wrong:
            method(other)
            continue
        with pytest.raises(ValueError, match=rf"X has {other.shape[1]} features, but Linear"):
            method(FORMS[form](other) if form != "list" else other)


@generated
@given(st.data(), matrices(), st.sampled_from([np.int8, np.int32, np.int64, np.uint64, object]))
def test_pairs(data: st.DataObject, X: Any, dtype: Any) -> None:
    assume(X.nnz)
    model = MatrixFactorization(n_factors=2, max_iter=1, tol=None, random_state=0).fit(X)
    info = np.iinfo(np.int64 if dtype is object else dtype)
    given = data.draw(st.lists(st.integers(-3, 25) | st.integers(info.min, info.max), max_size=5))
    assume(all(info.min <= number <= info.max for number in given))
    numbers = np.array(given, dtype)
    expected = model.user_factors_ @ model.item_factors_.T + model.mean_
    expected += model.user_biases_[:, np.newaxis] + model.item_biases_
    for name, size in (("users", X.shape[0]), ("items", X.shape[1])):
        right = np.zeros(len(numbers), np.int64)
        pair = (numbers, right) if name == "users" else (right, numbers)
        if all(0 <= number < size for number in given) and (dtype is not object or not given):
            users, items = (np.asarray(each, np.int64) for each in pair)
            np.testing.assert_allclose(
                model.predict_pairs(*pair), expected[users, items], rtol=1e-5, atol=1e-6
            )
            continue
        with pytest.raises(ValueError, match=rf"^{name}: expected (numbers in \[|integers of sh)"):
            model.predict_pairs(*pair)
        if name == "users":
            with pytest.raises(ValueError, match=r"^users: expected "):
                model.recommend(numbers)


def test_values_beyond_float32() -> None:
    """Named, and not taken for a learning rate that is too high."""
    X = sparse.csr_array(np.eye(4) * 1e39)
    for fit in (LinearRegressor().fit, MatrixFactorization().fit):
        with pytest.raises(ValueError, match=r"^X: expected values within the range of float32"):
            fit(X, labels(4))
    narrow = sparse.csr_array(np.eye(4))
    with pytest.raises(ValueError, match=r"^y: expected values within the range of float32"):
        LinearRegressor().fit(narrow, labels(4) * 1e39)
    for targets in (labels(4) * 1e30, labels(4) * 1e20):  # whose squares are infinite
        with pytest.raises(
            ValueError, match=r"^eta0: expected a learning rate at which weights and"
        ):
            LinearRegressor().fit(narrow, targets)


def test_a_call_that_fails_changes_no_model() -> None:
    X, y = sparse.csr_array(np.eye(8)), np.arange(8) % 3
    huge = X * 1e39
    for model in (LinearClassifier(random_state=0), MatrixFactorization(random_state=0)):
        with pytest.raises(ValueError, match=r"^X: "):
            model.fit(huge, y)
        assert not [name for name in vars(model) if name in ("coef_", "user_factors_", "_states")]
    classifier = LinearClassifier(random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    twin = copy.deepcopy(classifier)
    with pytest.raises(ValueError, match=r"^X: "):
        classifier.partial_fit(huge, y)
    with pytest.raises(ValueError, match=r"^fit_intercept: expected True as in the first call"):
        classifier.set_params(fit_intercept=False).partial_fit(X, y)
    classifier.set_params(fit_intercept=True)
    for model in (classifier, twin):
        model.partial_fit(X, y)
    np.testing.assert_array_equal(classifier.coef_, twin.coef_)
    factors = MatrixFactorization(n_factors=3).fit(X)
    with pytest.raises(ValueError, match=r"^n_factors: expected 3 as in fit, got 4"):
        factors.set_params(n_factors=4).partial_fit(X)


def test_the_mean_of_a_custom_loss() -> None:
    assert SQUARES.mean([1, 2], [0, 0], [1, 0]) == 0.5
    for targets, weights in (([0], None), ([0, 0, 0], None), ([[0, 0]], None), ([0, 0], [1])):
        with pytest.raises(ValueError, match=r"^(targets|weights): expected shape \(2,\), got "):
            SQUARES.mean([1, 2], targets, weights)
    model = LinearRegressor(SQUARES).fit(np.eye(3), [1, 2, 3])
    with pytest.raises(ValueError, match=r"^targets: expected shape \(3,\), got \(2,\)"):
        model.score(np.eye(3), [1, 2])


# --- Elements of arrays --------------------------------------------------------------------------


@pytest.mark.slow
@generated
@given(
    st.integers(1, 5),
    st.sampled_from([np.int8, np.int64, np.uint8, np.uint64]),
    st.data(),
    st.sampled_from([add, exchange, compare_exchange]),
)
def test_atomic_indices(size: int, dtype: Any, data: st.DataObject, operation: Any) -> None:
    """Those outside are refused as numpy refuses them."""
    info = np.iinfo(dtype)
    number = data.draw(
        st.integers(max(-2 * size, info.min), 2 * size)
        | st.integers(info.min, info.max)
        | st.just(info.max)
    )
    index = number if dtype is np.int64 else dtype(number)
    values = (0, 7) if operation is compare_exchange else (7,)
    memory = np.zeros(3 * size, np.int64)
    array, expected = memory[size : 2 * size], np.zeros(3 * size, np.int64)
    try:
        expected[size : 2 * size][index] = 7
    except (IndexError, OverflowError):
        with pytest.raises(IndexError, match="out of bounds"):
            operation(array, index, *values)
    else:
        assert operation(array, index, *values) == 0
    np.testing.assert_array_equal(memory, expected)


# --- Files ---------------------------------------------------------------------------------------

TEXT = b"1 qid:3 1:0.5 4:-2e3 7:1 # x\n-1 qid:4 2:.5\n\n0.25 qid:5 1:1e-3 12:7\r\n"


@st.composite
def spoilt(draw: Draw, text: bytes, alphabet: bytes) -> bytes:
    """Parts of a text cut, repeated, or written over."""
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(text)))
        last = draw(st.integers(first, min(first + 6, len(text))))
        new = draw(st.lists(st.sampled_from(alphabet), max_size=4).map(bytes))
        text = text[:first] + draw(st.sampled_from([new, text[first:last] * 2])) + text[last:]
    return text


def test_svmlight_text(tmp_path: Path) -> None:
    """Any bytes are rows, the same to all readers, or an error with its place."""
    path, folder = tmp_path / "rows.svm", tmp_path / "rows"

    @generated
    @given(
        spoilt(TEXT, b"0123456789:.,+-eE# \t\r\nqidnaf\0\xff"),
        st.booleans(),
        st.sampled_from(["auto", True, False]),
        st.integers(1, 3),
        st.sampled_from([np.float32, np.float64]),
    )
    def check(text: bytes, query_id: bool, zero_based: Any, threads: int, dtype: Any) -> None:
        path.write_bytes(text)
        how = {"zero_based": zero_based, "n_threads": threads, "dtype": dtype}
        try:
            X, y, *_ = load_svmlight(path, query_id=query_id, **how)
        except ValueError:
            with pytest.raises(ValueError, match=rf"^{path}: line \d+, column \d+: expected "):
                load_svmlight(path, query_id=query_id, **how)
            if not query_id:
                with pytest.raises(ValueError, match="line "):
                    convert_svmlight(path, folder, **how)
            return
        X.check_format(full_check=True)
        assert X.dtype == dtype
        assert X.shape[0] == len(y)
        convert_svmlight(path, folder, **how)
        mapped_rows, mapped_labels = open_csr(folder)
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(mapped_rows, name), getattr(X, name))
        np.testing.assert_array_equal(mapped_labels, y)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()

    check()


@pytest.mark.filterwarnings("ignore:invalid value")  # scikit-learn's search for a NaN
def test_damaged_folders(tmp_path: Path) -> None:
    """Damaged folders are refused when opened, or at the first use of the rows."""
    X = sparse.random_array((9, 6), density=0.4, rng=0, format="csr", dtype=np.float32)
    save_csr(tmp_path / "rows", X, labels(9))
    files = sorted((tmp_path / "rows").iterdir())
    whole = {path: path.read_bytes() for path in files}

    def use() -> None:
        rows, y = open_csr(tmp_path / "rows")
        for block, y_block in row_blocks(rows, y, 4):
            block.check_format(full_check=True)
            assert len(y_block) == block.shape[0]
        model = LinearRegressor(max_iter=1, tol=None)
        model.partial_fit(rows, np.zeros(len(y)))
        model.predict(rows)

    @generated
    @given(st.data(), st.sampled_from(files))
    def check(data: st.DataObject, path: Path) -> None:
        path.write_bytes(data.draw(spoilt(whole[path], bytes(range(256)))))
        try:
            use()
        except (ValueError, OSError):
            with pytest.raises((ValueError, OSError), match=rf"X|eta0|{path.name}"):
                use()
        finally:
            path.write_bytes(whole[path])

    check()
