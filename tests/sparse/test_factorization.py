"""Matrix factorization: scikit-learn's checks, and results beside other algorithms."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from asyncopt import _core
from asyncopt.sparse import MatrixFactorization, movielens

SYNCS = _core.factor_syncs()


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([MatrixFactorization(), MatrixFactorization("bpr")])  # type: ignore[untyped-decorator]
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def ratings(
    users: int = 60, items: int = 40, rank: int = 3, known: float = 0.5, noise: float = 0.0
) -> tuple[Any, Any]:
    """Ratings around 3 of a low rank, with biases: those to learn and those held out."""
    random = np.random.default_rng(0)
    full = 3 + random.standard_normal((users, rank)) @ random.standard_normal((rank, items))
    full += random.standard_normal((users, 1)) + noise * random.standard_normal(full.shape)
    mask = random.random(full.shape) < known
    return sparse.csr_array(full * mask), sparse.csr_array(full * ~mask)


def liked() -> tuple[Any, Any]:
    """Two kinds of users who like half of the items of their kind: to learn, and held out."""
    random = np.random.default_rng(0)
    kind = random.integers(2, size=80)[:, np.newaxis] == random.integers(2, size=50)
    likes = kind & (random.random(kind.shape) < 0.6)
    known = random.random(kind.shape) < 0.7
    return sparse.csr_array((likes & known) * 1.0), sparse.csr_array((likes & ~known) * 1.0)


def test_low_rank_is_recovered() -> None:
    known, held_out = ratings()
    model = MatrixFactorization(
        n_factors=6,
        eta0=0.05,
        decay=1.0,
        regularization=0.001,
        max_iter=300,
        tol=None,
        random_state=0,
    ).fit(known)
    assert model.score(held_out) > 0.95
    assert model.loss_curve_[-1] < 1e-2 * model.loss_curve_[0]
    entries = known.tocoo()
    predicted = model.predict_pairs(*entries.coords)
    by_hand = model.user_factors_ @ model.item_factors_.T + model.mean_
    by_hand += model.user_biases_[:, np.newaxis] + model.item_biases_
    np.testing.assert_allclose(predicted, by_hand[entries.coords], rtol=1e-5, atol=1e-5)


def objective(
    X: Any, mean: float, users: npt.NDArray[Any], items: npt.NDArray[Any], regularization: float
) -> float:
    """The minimized objective, in float64; rows hold factors, then the bias."""
    u, i = X.coords
    k = users.shape[1] - 1
    predicted = (users[u, :k] * items[i, :k]).sum(axis=1) + users[u, k] + items[i, k] + mean
    squares = (users[u] ** 2).sum(axis=1) + (items[i] ** 2).sum(axis=1)
    return float(((X.data - predicted) ** 2 + regularization * squares).mean() / 2)


def alternating(X: Any, mean: float, k: int, regularization: float) -> float:
    """The objective that alternating least squares reaches from a start of its own."""
    random = np.random.default_rng(1)
    sides = [0.3 * random.standard_normal((size, k + 1)) for size in X.shape]
    for _ in range(200):
        for side in (0, 1):
            mine, other = X.coords[side], sides[1 - side][X.coords[1 - side]]
            with_one = np.hstack([other[:, :k], np.ones((len(other), 1))])
            rest = X.data - mean - other[:, k]
            for row in np.unique(mine):
                A, b = with_one[mine == row], rest[mine == row]
                ridge = regularization * len(b) * np.eye(k + 1)
                sides[side][row] = np.linalg.solve(A.T @ A + ridge, A.T @ b)
    return objective(X, mean, sides[0], sides[1], regularization)


def test_the_optimum_is_that_of_alternating_least_squares() -> None:
    known = sparse.coo_array(ratings(30, 20, noise=0.3)[0])
    model = MatrixFactorization(
        n_factors=3,
        regularization=0.1,
        eta0=0.05,
        decay=0.99,
        max_iter=400,
        tol=None,
        random_state=0,
    ).fit(known)
    users, items = (
        np.column_stack([model.user_factors_, model.user_biases_]).astype(np.float64),
        np.column_stack([model.item_factors_, model.item_biases_]).astype(np.float64),
    )
    reached = objective(known, model.mean_, users, items, 0.1)
    assert reached == pytest.approx(alternating(known, model.mean_, 3, 0.1), rel=0.02)


def test_what_users_like_comes_first() -> None:
    known, held_out = liked()
    model = MatrixFactorization("bpr", n_factors=5, random_state=0)
    assert model.fit(known).score(held_out, seen=known) > 0.75
    assert model.loss_curve_[-1] < 0.5 * np.log(2)
    items, _ = model.recommend(np.arange(80), 5, seen=known)
    hits = held_out.toarray()[np.arange(80)[:, np.newaxis], items].mean()
    assert hits > 2 * held_out.mean()
    assert (model.user_biases_ == 0).all()
    assert model.mean_ == 0


def recall(scores: npt.NDArray[Any], known: Any, held_out: Any, most: int = 10) -> float:
    """Mean share of a user's held-out items, at most ``most``, among as many best unseen ones."""
    hits = []
    for score, seen, wanted in zip(scores, known.toarray(), held_out.toarray(), strict=True):
        if wanted.any():
            best = np.argsort(-np.where(seen > 0, -np.inf, score))[:most]
            hits.append((wanted[best] > 0).sum() / min(most, (wanted > 0).sum()))
    return float(np.mean(hits))


def test_the_defaults_recommend_better_than_popularity() -> None:
    """On MovieLens with a tenth held out."""
    ratings = movielens().ratings
    kept = np.random.default_rng(0).random(ratings.nnz) >= 0.1
    known, held_out = (
        sparse.csr_array(
            (ratings.data[mine], tuple(c[mine] for c in ratings.coords)), shape=ratings.shape
        )
        for mine in (kept, ~kept)
    )
    popularity = np.tile(np.bincount(known.indices, minlength=known.shape[1]), (known.shape[0], 1))
    model = MatrixFactorization("bpr", random_state=0).fit(known)
    ours = recall(model.user_factors_ @ model.item_factors_.T + model.item_biases_, known, held_out)
    assert ours > 1.4 * recall(popularity, known, held_out)
    assert len(np.unique(model.recommend(np.arange(671), seen=known)[0])) > 300


@pytest.mark.parametrize(("decay", "learns"), [(None, True), (1.0, True), (0.9, False)])
def test_the_decay_of_partial_fit(decay: float | None, learns: bool) -> None:
    """By default there is none, however often it is called: new ratings are learned."""
    known, _ = ratings()
    model = MatrixFactorization(decay=decay, random_state=0)
    for _ in range(200):
        model.partial_fit(known)
    before = model.user_factors_.copy()
    model.partial_fit(2 * known)
    assert (np.abs(model.user_factors_ - before).max() > 0.01) == learns


def test_the_area_is_scikit_learns() -> None:
    known, held_out = liked()
    model = MatrixFactorization("bpr", n_factors=5, max_iter=3, tol=None, random_state=0).fit(known)
    scores = model.user_factors_ @ model.item_factors_.T + model.item_biases_
    areas = []
    for mine, seen, score in zip(held_out.toarray(), known.toarray(), scores, strict=True):
        asked = seen == 0
        if mine.sum() > 0:
            areas.append(roc_auc_score(mine[asked], score[asked]))
    assert model.score(held_out, seen=known) == pytest.approx(np.mean(areas))


def test_entries_not_above_zero_are_not_liked() -> None:
    known, _ = liked()
    mixed = known.copy()
    mixed.data[::3] = -1
    positive = known.copy()
    positive.data[::3] = 0
    positive.eliminate_zeros()
    models = [
        MatrixFactorization("bpr", max_iter=2, tol=None, random_state=0).fit(X)
        for X in (mixed, positive)
    ]
    np.testing.assert_array_equal(models[0].item_factors_, models[1].item_factors_)


def test_recommend() -> None:
    known, _ = ratings(known=0.3)
    model = MatrixFactorization(max_iter=5, tol=None, random_state=0).fit(known)
    items, scores = model.recommend([7, 3], 4)
    every = np.array([model.predict_pairs(np.full(40, u), np.arange(40)) for u in (7, 3)])
    np.testing.assert_array_equal(items, np.argsort(-every, axis=1)[:, :4])
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :4], rtol=1e-5)
    unseen, _ = model.recommend(np.arange(60), 4, seen=known)
    assert (known.toarray()[np.arange(60)[:, np.newaxis], unseen] == 0).all()
    most = sparse.csr_array(np.pad(np.ones((60, 38)), ((0, 0), (0, 2))))
    items, scores = model.recommend([0], 5, seen=most)
    assert sorted(items[0, :2]) == [38, 39]
    assert (items[0, 2:] == -1).all()
    assert np.isneginf(scores[0, 2:]).all()
    assert sorted(model.recommend([0], 100)[0][0]) == list(range(40))
    with pytest.raises(ValueError, match=r"n_items: expected .*, got 0"):
        model.recommend([0], 0)


@pytest.mark.parametrize("sync", SYNCS)
def test_threads_find_what_one_does(sync: str) -> None:
    known, held_out = ratings(200, 150)
    how: dict[str, Any] = {"n_factors": 6, "eta0": 0.05, "regularization": 0.01, "decay": 1.0}
    how |= {"max_iter": 60, "tol": None}
    one, three = (
        MatrixFactorization(n_threads=n, sync=sync, random_state=0, **how).fit(known)
        for n in (1, 3)
    )
    assert three.score(held_out) > one.score(held_out) - 0.05
    assert one.score(held_out) > 0.9


@pytest.mark.parametrize("loss", ["squared_error", "bpr"])
def test_one_thread_is_reproducible(loss: str) -> None:
    known, _ = liked()
    models = [
        MatrixFactorization(loss, max_iter=3, tol=None, sync=sync, random_state=seed).fit(known)
        for sync, seed in (("hogwild", 0), ("hogwild", 0), ("atomic", 0), ("hogwild", 1))
    ]
    for model in models[1:3]:
        np.testing.assert_array_equal(model.user_factors_, models[0].user_factors_)
    assert (models[3].user_factors_ != models[0].user_factors_).any()


def test_ordered_gives_the_same_bits_whatever_the_threads() -> None:
    """Those of one thread, which uses plain loads and stores."""
    known, _ = ratings(300, 200)
    how: dict[str, Any] = {"max_iter": 20, "tol": None, "random_state": 0}
    alone = MatrixFactorization(sync="hogwild", **how).fit(known)
    for threads in (1, 2, 3, 5):
        model = MatrixFactorization(sync="ordered", n_threads=threads, **how).fit(known)
        for name in ("user_factors_", "item_factors_", "user_biases_", "loss_curve_"):
            np.testing.assert_array_equal(getattr(model, name), getattr(alone, name))


def test_partial_fit_and_pickle() -> None:
    known, held_out = ratings()
    parts = MatrixFactorization(n_factors=6, eta0=0.05, regularization=0.001, random_state=0)
    first = MatrixFactorization(
        n_factors=6, eta0=0.05, regularization=0.001, random_state=0, max_iter=1, tol=None
    ).fit(known)
    parts.partial_fit(known)
    np.testing.assert_array_equal(parts.user_factors_, first.user_factors_)
    assert parts.max_iter == 200
    for _ in range(200):
        parts.partial_fit(known)
    assert parts.score(held_out) > 0.9
    again = pickle.loads(pickle.dumps(parts))
    again.partial_fit(known)
    parts.partial_fit(known)
    np.testing.assert_array_equal(again.user_factors_, parts.user_factors_)


def test_partial_fit_continues_the_stream_of_a_seed() -> None:
    """With factors of 0 and a tiny rate, biases count what each call has drawn."""
    known, _ = liked()
    models = [
        MatrixFactorization("bpr", init_scale=0, regularization=0, eta0=1e-6, random_state=0)
        for _ in range(2)
    ]
    moves = []
    for _ in range(3):
        for model in models:
            before = np.array(getattr(model, "item_biases_", 0.0))
            model.partial_fit(known)
        moves.append(model.item_biases_ - before)
        np.testing.assert_array_equal(models[0].item_biases_, models[1].item_biases_)
    assert np.abs(moves[2] - moves[1]).max() > 1e-6  # the first call has drawn factors before
    models[1].set_params(max_iter=1, tol=None).fit(known)
    np.testing.assert_array_equal(models[1].item_biases_, moves[0])


def test_bad_input_is_named() -> None:
    known, _ = ratings()
    wrong: tuple[tuple[str, Any, str], ...] = (
        ("loss", "hinge", "loss: expected one of 'squared_error', 'bpr'; got 'hinge'"),
        ("sync", "leashed", "sync: expected one of 'hogwild', .* got 'leashed'"),
        ("n_factors", 0, "n_factors: expected an integer >= 1, got 0"),
        ("regularization", -1, "regularization: expected a finite number of at least 0, got -1"),
        ("eta0", 0, "eta0: expected a finite number above 0"),
        ("decay", 1.5, "decay: expected a finite number above 0 and at most 1, got 1.5"),
        ("n_threads", 1.0, "n_threads: expected an integer"),
    )
    for name, value, message in wrong:
        with pytest.raises(ValueError, match=message):
            MatrixFactorization(**{name: value}).fit(known)
    with pytest.raises(ValueError, match=r"sync: expected one of .* with loss='bpr'"):
        MatrixFactorization("bpr", sync="ordered").fit(known)
    with pytest.raises(ValueError, match="X: expected at least one entry stored, got none"):
        MatrixFactorization().fit(sparse.csr_array((3, 4)))
    with pytest.raises(ValueError, match="X: expected at least one entry above zero, got none"):
        MatrixFactorization("bpr").fit(-abs(known))
    with pytest.raises(ValueError, match="eta0: expected a learning rate at which factors stay"):
        MatrixFactorization(eta0=100).fit(known)
    broken = known.copy()
    broken.indices[5] = 1000
    broken.has_canonical_format = True
    with pytest.raises(ValueError, match=r"X: expected column indices in \[0, 40\), got 1000"):
        MatrixFactorization().fit(broken)
    model = MatrixFactorization(max_iter=1, tol=None, random_state=0).fit(known)
    before = model.user_factors_.copy()
    with pytest.raises(ValueError, match="X: expected 60 users as in fit, got 20"):
        model.partial_fit(known[:20])
    with pytest.raises(ValueError, match=r"items: expected numbers in \[0, 40\), got 0 to 40"):
        model.predict_pairs([0, 1], [0, 40])
    with pytest.raises(ValueError, match=r"users: expected integers of shape \(n,\), got float64"):
        model.recommend([0.5])
    with pytest.raises(ValueError, match=r"users, items: expected as many of both, got 2 and 1"):
        model.predict_pairs([0, 1], [0])
    np.testing.assert_array_equal(model.user_factors_, before)
