"""Recall of a ranking by its defaults, beside popularity and other libraries' best.

Recall@10: the mean over users of the share of their held-out items, at most 10, that are among the
10 best items that they have not seen. A tenth of the entries is held out. Ours are trained by the
defaults of `MatrixFactorization(loss="bpr")`, the others by the best of a few settings, which is
picked by what was held out: that favours them.

Sets: MovieLens with all ratings as likes, with those of 4 stars and more, and with the 800 films
that were rated most; words of docstrings; and made-up choices of a low-rank taste, popularity and
chance, of several sizes and densities. In "netflix" who rated what is random but for popularity
and a little taste: nothing is to be gained there, only lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from asyncopt.sparse import MatrixFactorization, bag_of_words, make_ratings_like, movielens
from benches.conftest import Say

pytestmark = pytest.mark.filterwarnings("ignore")  # implicit's, of the conversion of its input

MOST = 10
HELD_OUT = 0.1


class Split(NamedTuple):
    """CSR matrices of users by items."""

    known: Any
    held_out: Any


def split(likes: Any) -> Split:
    entries = sparse.coo_array(likes)
    known = np.random.default_rng(0).random(entries.nnz) >= HELD_OUT
    parts = []
    for mine in (known, ~known):
        coords = tuple(numbers[mine].astype(np.int32) for numbers in entries.coords)
        parts.append(sparse.csr_array((np.ones(mine.sum()), coords), shape=entries.shape))
    return Split(*parts)


def choices(users: int, items: int, count: int, rank: int, seed: int) -> Any:
    """The pairs of the greatest sums of taste, popularity, activity and chance."""
    random = np.random.default_rng(seed)
    of_users, of_items = (
        random.standard_normal((size, rank)) / rank**0.25 for size in (users, items)
    )
    gains = 1.5 * of_users @ of_items.T + random.gumbel(size=(users, items))
    gains -= np.log(1 + random.permutation(items))
    gains -= 0.8 * np.log(1 + random.permutation(users))[:, np.newaxis]
    best = np.argpartition(gains.ravel(), -count)[-count:]
    return sparse.csr_array((np.ones(count), np.divmod(best, items)), shape=(users, items))


def liked(ratings: Any, stars: float) -> Any:
    found = ratings.tocsr()
    found.data[found.data < stars] = 0
    found.eliminate_zeros()
    return found


def frequent_films() -> Any:
    films = movielens().ratings.tocsr()
    counts = np.bincount(films.indices, minlength=films.shape[1])
    return films[:, np.sort(np.argsort(-counts)[:800])]


def words() -> Any:
    """Docstrings with ten words or more; words that occur in three or more of them."""
    found, _ = bag_of_words(("email", "joblib", "scipy"))
    found = found[:, np.bincount(found.indices, minlength=found.shape[1]) >= 3]
    return found[np.diff(found.indptr) >= 10]


SETS: dict[str, Callable[[], Any]] = {
    "MovieLens": lambda: movielens().ratings,
    "MovieLens, 4 stars": lambda: liked(movielens().ratings, 4),
    "MovieLens, 800 films": frequent_films,
    "words": words,
    "netflix, 4 stars": lambda: liked(make_ratings_like("netflix", scale=0.002), 4),
    "choices, dense": lambda: choices(500, 300, 30_000, 5, 0),
    "choices, sparse": lambda: choices(5000, 3000, 60_000, 10, 1),
    "choices, large": lambda: choices(6000, 1500, 400_000, 8, 2),
}
QUICK = ("MovieLens, 800 films", "choices, dense")


def recall(scores: npt.NDArray[Any], data: Split) -> float:
    """Recall@10 of scores of shape (users, items), or (items,) for all users."""
    wanted = np.diff(data.held_out.indptr)
    users = np.flatnonzero(wanted)
    mine = scores[users].copy() if scores.ndim == 2 else np.tile(scores, (len(users), 1))
    mine[sparse.coo_array(data.known[users]).coords] = -np.inf
    best = np.argpartition(mine, -MOST, axis=1)[:, -MOST:]
    hits = np.take_along_axis(data.held_out[users].toarray(), best, axis=1).sum(axis=1)
    return float((hits / np.minimum(MOST, wanted[users])).mean())


def of_implicit(data: Split) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """implicit with its defaults and others; it draws items by their popularity."""
    from implicit.bpr import BayesianPersonalizedRanking

    for factors, rate, regularization in ((100, 0.01, 0.01), (30, 0.05, 0.02), (30, 0.05, 0.05)):
        model = BayesianPersonalizedRanking(
            factors=factors,
            learning_rate=rate,
            regularization=regularization,
            iterations=100,
            random_state=0,
        )
        model.fit(sparse.csr_matrix(data.known), show_progress=False)
        yield "implicit BPR", model.user_factors @ model.item_factors.T


def of_lightfm(data: Split) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Its defaults, and more passes; WARP is another loss, which compares with wrong items only."""
    from lightfm import LightFM

    ones = sparse.coo_matrix(data.known.astype(np.float32))
    for loss, factors, epochs in (("bpr", 10, 1), ("bpr", 30, 30), ("warp", 30, 30)):
        model = LightFM(no_components=factors, loss=loss, random_state=0)
        model.fit(ones, epochs=epochs)
        scores = model.user_embeddings @ model.item_embeddings.T + model.item_biases
        yield f"lightfm-next {loss.upper()}", scores


@pytest.mark.parametrize("name", list(SETS))
def test_recall(name: str, quick: bool, say: Say) -> None:
    if quick and name not in QUICK:
        pytest.skip("--quick")
    data = split(SETS[name]())
    popular = recall(np.bincount(data.known.indices, minlength=data.known.shape[1]) * 1.0, data)
    begin = time.perf_counter()
    model = MatrixFactorization("bpr", random_state=0).fit(data.known)
    seconds = time.perf_counter() - begin
    ours = recall(model.user_factors_ @ model.item_factors_.T + model.item_biases_, data)
    users, items = data.known.shape
    say(f"{name}: {users} users, {items} items, {data.known.nnz} entries to learn from")
    say(f"  popularity {popular:.3f}")
    say(f"  asyncopt BPR {ours:.3f}, {model.n_iter_} passes in {seconds:.1f} s")
    best: dict[str, float] = {}
    for module, fits in (("implicit", of_implicit), ("lightfm", of_lightfm)):
        if not quick and _installed(module):
            for label, scores in fits(data):
                best[label] = max(best.get(label, 0), recall(scores, data))
    for label, reached in best.items():
        say(f"  {label} {reached:.3f}, the best of its settings")
    assert ours > (0.99 if name.startswith("netflix") else 1.1) * popular
    for label, reached in best.items():
        if "BPR" in label:
            assert ours > 0.9 * reached, label  # 600 users leave an error of 0.01


def _installed(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True
