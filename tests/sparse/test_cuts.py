"""Graph cuts: scikit-learn's checks, maximum flows, linear programs, and cuts worked by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog
from scipy.sparse.csgraph import maximum_flow
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks

from asyncopt import _core
from asyncopt.sparse import GraphCut, make_graph_like
from asyncopt.sparse.cuts import _mend

SYNCS = _core.cut_syncs()
Labels = npt.NDArray[np.int64]


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([GraphCut()])  # type: ignore[untyped-decorator]
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def graph(vertices: int, edges: list[tuple[int, int, float]]) -> Any:
    """A symmetric matrix, csr."""
    tails, heads, weights = (np.array(part) for part in zip(*edges, strict=True))
    X = sparse.coo_array((weights.astype(np.float64), (tails, heads)), shape=(vertices, vertices))
    return (X + X.T).tocsr()


def labels(vertices: int, known: dict[int, int]) -> Labels:
    y = np.full(vertices, -1)
    y[list(known)] = list(known.values())
    return y


def random_graph(seed: int, vertices: int, density: float, known: int, classes: int) -> Any:
    """Whole weights from 1 to 100, and `known` labelled vertices of each class."""
    random = np.random.default_rng(seed)
    X = sparse.triu(sparse.random_array((vertices, vertices), density=density, rng=random), 1)
    X.data = np.ceil(100 * X.data)
    chosen = random.permutation(vertices)[: known * classes]
    return (X + X.T).tocsr(), labels(vertices, {v: i % classes for i, v in enumerate(chosen)})


def pixels(image: npt.NDArray[np.float64]) -> Any:
    """Each pixel and its 4 neighbours, of weights that fall with the contrast; whole numbers."""
    number = np.arange(image.size).reshape(image.shape)
    edges: list[tuple[int, int, float]] = []
    behind, ahead = slice(1, None), slice(-1)
    for one, other in ((behind, ahead), ((..., behind), (..., ahead))):
        contrast = image[one] - image[other]
        weights = np.ceil(1000 * np.exp(-(contrast**2) / 16))
        edges += zip(number[one].ravel(), number[other].ravel(), weights.ravel(), strict=True)
    return graph(image.size, edges)


def digits() -> tuple[Any, Labels]:
    """36 digits side by side: ink and paper, of which the clearest pixels are labelled."""
    image = load_digits().images[:36].reshape(6, 6, 8, 8).swapaxes(1, 2).reshape(48, 48)
    random = np.random.default_rng(0)
    y = np.full(image.size, -1)
    sure = random.random(image.size) < 0.3
    y[sure & (image.ravel() == 0)] = 0
    y[sure & (image.ravel() == 16)] = 1
    return pixels(image + random.normal(0, 2, image.shape)), y


def least_cut(X: Any, y: Labels) -> float:
    """The maximum flow from a source joined to class 0 to a sink joined to class 1."""
    n, (tails, heads) = len(y), X.nonzero()
    out, into = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    tails = np.concatenate([tails, np.full(len(out), n), into])
    heads = np.concatenate([heads, out, np.full(len(into), n + 1)])
    much = np.full(len(out) + len(into), 10**9)
    weights = np.concatenate([X.data.astype(np.int32), much]).astype(np.int32)
    network = sparse.csr_array((weights, (tails, heads)), shape=(n + 2, n + 2))
    return float(maximum_flow(network, n, n + 1).flow_value)


def relaxed(X: Any, y: Labels) -> float:
    """The optimum of the relaxation, as a linear program in shares and distances."""
    edges = sparse.triu(X, 1).tocoo()
    n, k, e = len(y), y.max() + 1, edges.nnz
    ends = (sparse.csr_array((np.ones(e), (np.arange(e), at)), shape=(e, n)) for at in edges.coords)
    u, v = (sparse.kron(end, sparse.eye_array(k)) for end in ends)
    one = sparse.eye_array(e * k)
    lower, upper = np.zeros((n, k)), np.ones((n, k))
    upper[y >= 0] = 0
    lower[y >= 0, y[y >= 0]] = upper[y >= 0, y[y >= 0]] = 1
    shares = np.stack([lower.ravel(), upper.ravel()], axis=1)
    sums = sparse.kron(sparse.eye_array(n), np.ones((1, k)))
    program = linprog(
        np.concatenate([np.zeros(n * k), np.repeat(edges.data, k) / 2]),
        A_ub=sparse.block_array([[u - v, -one], [v - u, -one]]),
        b_ub=np.zeros(2 * e * k),
        A_eq=sparse.hstack([sums, sparse.csr_array((n, e * k))]),
        b_eq=np.ones(n),
        bounds=[*map(tuple, shares), *[(0, None)] * (e * k)],
    )
    return float(program.fun)


def check(model: GraphCut, X: Any, y: Any) -> None:
    """Check that the model's results are consistent, with dense matrices."""
    dense = np.triu(X.toarray() if sparse.issparse(X) else X, 1).astype(np.float64)
    found, shares = model.transduction_, model.label_distributions_.astype(np.float64)
    known = y != -1
    np.testing.assert_array_equal(model.classes_, np.unique(y[known]))
    np.testing.assert_array_equal(found[known], y[known])
    np.testing.assert_array_equal(model.classes_[shares[known].argmax(axis=1)], y[known])
    assert shares.shape == (len(y), len(model.classes_))
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert model.cut_ == pytest.approx(dense[found[:, np.newaxis] != found].sum())
    tails, heads = dense.nonzero()
    relaxed_cut = dense[tails, heads] @ np.abs(shares[tails] - shares[heads]).sum(axis=1) / 2
    assert model.objective_ == pytest.approx(relaxed_cut, rel=1e-5, abs=1e-5)
    assert model.objective_ <= model.cut_


def test_three_vertices() -> None:
    """The one between two labels goes where the heavier edge leads."""
    X = np.array([[0, 3, 0], [3, 0, 1], [0, 1, 0]])
    y = np.array([5, -1, 2])
    model = GraphCut(random_state=0).fit(X, y)
    check(model, X, y)
    assert model.transduction_.tolist() == [5, 5, 2]
    assert model.label_distributions_.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert (model.cut_, model.objective_) == (1, 1)


def halves(times: int) -> tuple[Any, Labels]:
    """Three vertices, each joined to two of three labels: halves cost 7.5, the best cut 8.

    So many times, with the same labels, and numbered at random.
    """
    number = np.random.default_rng(0).permutation(3 * times) + 3
    edges: list[tuple[int, int, float]] = []
    for three in number.reshape(times, 3):
        edges += [(u, v, 1) for u, v in itertools.combinations(three, 2)]
        edges += [(c, v, 2) for i, v in enumerate(three) for c in range(3) if c != i]
    return graph(3 + 3 * times, edges), labels(3 + 3 * times, {0: 0, 1: 1, 2: 2})


def test_a_relaxation_that_is_less_than_every_cut() -> None:
    X, y = halves(1)
    assert relaxed(X, y) == pytest.approx(7.5)
    model = GraphCut(random_state=0).fit(X, y)
    check(model, X, y)
    assert model.cut_ == 8
    assert model.objective_ == pytest.approx(7.5, rel=0.02)
    assert (model.label_distributions_[3:].max(axis=1) < 0.55).all()


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("threads", [1, 2])
def test_two_classes_are_a_maximum_flow(sync: str, threads: int) -> None:
    for seed, (vertices, density, known) in enumerate(
        [(50, 0.1, 1), (200, 0.04, 1), (400, 0.02, 10), (400, 0.01, 40)]
    ):
        X, y = random_graph(seed, vertices, density, known, 2)
        model = GraphCut(sync=sync, n_threads=threads, random_state=0).fit(X, y)
        check(model, X, y)
        least = least_cut(X, y)
        assert least > 0
        assert least <= model.cut_ <= 1.01 * least
        assert model.objective_ == model.cut_


def test_a_picture_is_cut_as_by_a_maximum_flow() -> None:
    X, y = digits()
    least = least_cut(X, y)
    for threads in (1, 2):
        model = GraphCut(n_threads=threads, random_state=0).fit(X, y)
        assert least <= model.cut_ <= 1.01 * least
        assert 0.1 < model.transduction_.mean() < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_three_classes_are_a_linear_program(seed: int) -> None:
    X, y = random_graph(seed, 40, 0.1, 1 + seed, 3)
    model = GraphCut(random_state=0).fit(X, y)
    check(model, X, y)
    least = relaxed(X, y)
    assert least > 0
    assert (1 - 1e-6) * least <= model.objective_ <= 1.02 * least


@pytest.mark.parametrize("sync", SYNCS)
def test_many_classes(sync: str) -> None:
    """More than a vector of them, whose rows threads can tear: names of 91 entities."""
    made = make_graph_like("dblife", scale=0.005)
    X, y = made.problem()
    edges = (X != 0).sum() // 2
    assert edges == len(made.weights)
    model = GraphCut(sync=sync, n_threads=3, max_iter=50, tol=None, random_state=0).fit(X, y)
    check(model, X, y)
    tails, heads = made.truth[made.edges.T]
    assert model.cut_ <= made.weights[tails != heads].sum()
    assert (model.transduction_ == made.truth).mean() > 0.8


def test_ordered_gives_the_same_bits_whatever_the_threads() -> None:
    """Those of one thread, which uses plain loads and stores."""
    X, y = halves(200)
    alone, other = (GraphCut(sync="hogwild", random_state=seed).fit(X, y) for seed in (0, 1))
    assert (other.label_distributions_ != alone.label_distributions_).any()
    assert alone.objective_ < 0.99 * alone.cut_
    for threads in (1, 2, 3):
        model = GraphCut(sync="ordered", n_threads=threads, random_state=0).fit(X, y)
        for name in ("label_distributions_", "transduction_", "objective_"):
            np.testing.assert_array_equal(getattr(model, name), getattr(alone, name))


def test_vertices_out_of_reach_of_a_label() -> None:
    X = graph(7, [(0, 1, 1), (2, 3, 1), (3, 4, 5), (5, 6, 0), (2, 4, 2)])
    y = labels(7, {0: 7, 6: 3})
    for seed in range(3):
        model = GraphCut(random_state=seed).fit(X, y)
        check(model, X, y)
        assert model.transduction_.tolist() == [7, 7, 3, 3, 3, 3, 3]
        assert (model.label_distributions_[2:6] == 0.5).all()
        assert model.cut_ == model.objective_ == 0
    # With hardly a step made, all shares are equal, and a threshold gives them the second class.
    apart = graph(5, [(0, 1, 1), (1, 2, 5), (3, 4, 1)])
    model = GraphCut(eta0=1e-40, random_state=0).fit(apart, labels(5, {0: 0, 2: 1}))
    assert model.transduction_.tolist() == [0, 1, 1, 0, 0]


def test_rows_that_threads_tore_are_mended() -> None:
    shares = np.array([[0.5, 0.5, 0], [0, 0, 0], [1, 0, 1], [0.25, 0, 0]], np.float32)
    _mend(shares)
    third = 1 / np.float32(3)
    assert shares.tolist() == [[0.5, 0.5, 0], [third] * 3, [0.5, 0, 0.5], [1, 0, 0]]


def test_edges_between_labels_count_and_loops_do_not() -> None:
    X = graph(3, [(0, 1, 4), (1, 2, 1), (0, 2, 1.5), (0, 0, 9), (2, 2, 9)])
    y = labels(3, {0: 0, 1: 1})
    model = GraphCut(random_state=0).fit(X, y)
    assert model.transduction_.tolist() == [0, 1, 0]
    assert model.cut_ == model.objective_ == 5
    alone = GraphCut(random_state=0).fit(X[:2, :2], y[:2])
    assert (alone.cut_, alone.objective_, alone.n_iter_) == (4, 4, 1)


def test_one_class_and_no_edges() -> None:
    X = graph(4, [(0, 1, 1), (1, 2, 1)])
    model = GraphCut().fit(X, labels(4, {1: 2}))
    assert model.transduction_.tolist() == [2] * 4
    assert model.label_distributions_.tolist() == [[1]] * 4
    nothing = sparse.csr_array((4, 4))
    model = GraphCut().fit(nothing, labels(4, {1: 2, 3: 0}))
    assert model.transduction_.tolist() == [0, 2, 0, 0]
    assert model.label_distributions_.tolist() == [[0.5, 0.5], [0, 1], [0.5, 0.5], [1, 0]]
    assert (model.cut_, model.objective_, model.n_iter_) == (0, 0, 1)


def test_every_form_of_a_matrix_gives_the_same() -> None:
    X, y = random_graph(1, 60, 0.1, 2, 3)
    expected = GraphCut(random_state=0).fit(X, y)
    wide = X.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    twice = sparse.coo_array(
        (np.tile(X.data / 2, 2), tuple(np.tile(at, 2) for at in X.nonzero())), shape=X.shape
    )
    frozen, frozen_y = X.copy(), y.copy()
    for part in (frozen.data, frozen.indices, frozen.indptr, frozen_y):
        part.flags.writeable = False
    forms: tuple[Any, ...] = (
        wide, twice, frozen, X.toarray(), X.tocsc(), sparse.csr_matrix(X), X.astype(np.float32),
        X.astype(np.int64),
    )  # fmt: skip
    for form in forms:
        for known in (frozen_y, y.astype(np.int8), y.astype(np.float64), y.tolist()):
            model = GraphCut(random_state=0).fit(form, known)
            np.testing.assert_array_equal(model.transduction_, expected.transduction_)
            np.testing.assert_array_equal(model.label_distributions_, expected.label_distributions_)
    assert (wide != X).nnz == 0


def test_an_edge_may_be_as_heavy_as_one_likes() -> None:
    X, y = random_graph(2, 60, 0.1, 2, 2)
    lightest = GraphCut(random_state=0).fit(X, y)
    X = X.tolil()
    X[10, 40] = X[40, 10] = 1e200
    X = X.tocsr()
    assert y[10] == y[40] == -1
    model = GraphCut(random_state=0).fit(X, y)
    assert model.transduction_[10] == model.transduction_[40]
    assert lightest.cut_ <= model.cut_ < 1e6
    tiny = GraphCut(random_state=0).fit(X * 1e-300, y)
    np.testing.assert_array_equal(tiny.transduction_, model.transduction_)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Any, Labels]:
    """Up to 7 vertices, of which 4 at most have no label."""
    vertices = draw(st.integers(1, 7))
    weight = st.one_of(st.just(0), st.integers(1, 5), st.floats(1e-30, 1e30))
    X = np.zeros((vertices, vertices))
    for i, j in itertools.combinations_with_replacement(range(vertices), 2):
        X[i, j] = X[j, i] = draw(weight)
    y = np.array(draw(st.lists(st.integers(-1, 2), min_size=vertices, max_size=vertices)))
    y[4:] = np.maximum(y[4:], 0)
    if (y == -1).all():
        y[0] = draw(st.integers(0, 2))
    return X, y


@settings(max_examples=200, deadline=None)
@given(
    problems(),
    st.sampled_from(SYNCS),
    st.integers(1, 3),
    st.sampled_from([1e-40, 0.5, 1e300]),
    st.booleans(),
)
def test_any_small_graph(
    problem: tuple[Any, Labels], sync: str, threads: int, eta0: float, dense: bool
) -> None:
    X, y = problem
    model = GraphCut(sync=sync, n_threads=threads, eta0=eta0, max_iter=5, tol=None, random_state=0)
    model.fit(X if dense else sparse.csr_array(X), y)
    check(model, X, y)
    every = itertools.product(*([c] if c != -1 else np.unique(y[y != -1]) for c in y))
    upper = np.triu(X, 1)
    cuts = [upper[np.not_equal.outer(each, each)].sum() for each in map(np.array, every)]
    assert model.cut_ >= min(cuts) * (1 - 1e-9)
    if len(model.classes_) == 2:
        assert model.objective_ == model.cut_


def test_bad_input_is_named() -> None:
    X, y = random_graph(0, 10, 0.5, 1, 2)
    wrong: tuple[tuple[str, Any, str], ...] = (
        ("eta0", 0, "eta0: expected a finite number above 0"),
        ("decay", 1.5, "decay: expected a finite number above 0 and at most 1, got 1.5"),
        ("max_iter", 0, "max_iter: expected an integer >= 1, got 0"),
        ("sync", "atomic", "sync: expected one of 'hogwild', 'striped', .* got 'atomic'"),
        ("n_threads", 1.0, "n_threads: expected an integer"),
    )
    for name, value, message in wrong:
        with pytest.raises(ValueError, match=message):
            GraphCut(**{name: value}).fit(X, y)
    upper, outside = sparse.triu(X, 1).tocsr(), X.copy()
    outside.indices[0] = 10
    outside.has_canonical_format = True
    graphs: tuple[tuple[Any, str], ...] = (
        (X[:5], r"X: expected a square matrix, of less than 2 \*\* 31 vertices, got \(5, 10\)"),
        (upper, r"X: expected a symmetric matrix, got X\[\d, \d\] = .* pass X \+ X\.T"),
        (-X, "Negative values in data passed to GraphCut.fit as X"),
        (X * np.inf, "Input X contains infinity"),
        (X * np.nan, "Input X contains NaN"),
        (X * 1e306, r"X: expected weights of at most .*, so that their sum is finite, got 1e\+308"),
        (outside, r"X: expected column indices in \[0, 10\), got 10"),
        (sparse.csr_array((0, 0)), "0 sample"),
    )
    for bad, message in graphs:
        with pytest.raises(ValueError, match=message):
            GraphCut().fit(bad, y[: bad.shape[0]])
    targets: tuple[tuple[Any, str], ...] = (
        (np.full(10, -1), "y: expected at least one label other than -1, got none"),
        (y + 0.5, r"y: expected integers, -1 where .* \(Unknown label type: float64\)"),
        (y.astype(str), "y: expected integers, -1 where .*LabelEncoder"),
        (y == 0, "y: expected integers, -1 where .* bool"),
        (y[:9], "inconsistent numbers of samples"),
        (None, "requires y to be passed"),
    )
    for target, message in targets:
        with pytest.raises(ValueError, match=message):
            GraphCut().fit(X, target)
    many = _core.CUT_MOST_CLASSES + 1
    with pytest.raises(ValueError, match=f"y: expected at most 1024 classes, got {many}"):
        GraphCut().fit(sparse.csr_array((many, many)), np.arange(many))
