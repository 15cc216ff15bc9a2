"""Made-up ratings in the shape of well-known sets, for matrix factorization."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from asyncopt._checks import one_of, real, whole

__all__ = ["RATINGS", "low_rank", "make_ratings_like", "popular"]


class Ratings(NamedTuple):
    """Shape of a data set: size, skew of users and items, kind of ratings.

    A user or item ``peak`` times as frequent as the mean is the most frequent one; see `popular`.
    A rating is ``mean + spread * z + noise * e``, with z of the low-rank model and e Gaussian, both
    of variance 1; rounded to an integer and cut off at the ends of ``scale``, if there is one.
    """

    users: int
    items: int
    ratings: int
    user_peak: float
    item_peak: float
    rank: int
    mean: float
    spread: float
    noise: float
    scale: tuple[int, int] | None


RATINGS = {
    # Sizes: arXiv 1106.5730, section 7. Peaks of items: its greatest share of the ratings, Delta =
    # 2.3e-3 and 1.8e-3, times items; a user's is our choice, in which the median user has half as
    # many ratings as the mean. Jumbo is uniform, of rank 10; its test error there is 0.013.
    "netflix": Ratings(480_189, 17_770, 100_198_805, 6, 41, 10, 3.6, 0.67, 0.85, (1, 5)),
    "kdd": Ratings(1_000_990, 624_961, 252_800_275, 6, 1125, 10, 50, 30, 21, (0, 100)),
    "jumbo": Ratings(10**7, 10**7, 2 * 10**9, 1, 1, 10, 0, 1, 0.01, None),
}
CHUNK = 1 << 18
"""Ratings computed at a time, so that the rows of factors stay in the caches."""


def make_ratings_like(name: str, *, scale: float = 0.01, seed: int = 0) -> Any:
    """Ratings of a low-rank model with noise, in the shape of a set of the Hogwild! paper.

    Args:
        name: ``"netflix"``, 1 to 5 stars; ``"kdd"``, Yahoo! Music of the KDD Cup 2011, 0 to 100;
            ``"jumbo"``, of rank 10 nearly without noise.
        scale: share of the set's ratings. Users and items shrink by its root, so that as large a
            share of all pairs has a rating. 1 makes the set itself: 100,198,805 ratings of netflix
            in 1.2 GB, and 4 GB while they are made; 253 million of kdd, 2 billion of jumbo.
        seed: of everything random.

    Returns:
        A ``coo_array`` of shape (users, items), float32, sorted by user and item, no pair twice.

    Raises:
        ValueError: an argument is wrong.
    """
    one_of("name", name, tuple(RATINGS))
    real("scale", scale, 0, 1)
    whole("seed", seed, 0)
    shape = RATINGS[name]
    users, items = (math.ceil(size * math.sqrt(scale)) for size in (shape.users, shape.items))
    count = round(shape.ratings * scale)
    if count < 1:
        raise ValueError(f"scale: expected at least {1 / shape.ratings:.0e}, got {scale!r}")
    random = np.random.default_rng(seed)
    pairs = _distinct_pairs(random, users, items, count, shape)
    user, item = (part.astype(np.int32) for part in np.divmod(pairs, items))
    z = low_rank(random, user, item, (users, items), shape.rank)
    values = shape.mean + shape.spread * z
    values += shape.noise * random.standard_normal(count, np.float32)
    if shape.scale is not None:
        np.clip(np.rint(values, out=values), *shape.scale, out=values)
    ratings = sparse.coo_array((values, (user, item)), shape=(users, items))
    ratings.has_canonical_format = True
    return ratings


def popular(random: np.random.Generator, count: int, size: int, peak: float) -> Any:
    """Draws of ranks in [0, size), the first ``peak`` times as frequent as the mean.

    The density at share x of the ranks is ``c / (x + offset) ** 2``, whose sum is easily inverted;
    the last rank is as many times less frequent than the mean.
    """
    u = random.random(count)
    if peak > 1:
        offset = 1 / (peak - 1)
        u *= offset / (1 + offset - u)
    return np.minimum((u * size).astype(np.int64), size - 1)


def _distinct_pairs(
    random: np.random.Generator, users: int, items: int, count: int, shape: Ratings
) -> npt.NDArray[np.int64]:
    """``user * items + item`` of as many pairs, sorted."""
    names = random.permutation(users), random.permutation(items)  # of ranks
    pairs = np.empty(0, np.int64)
    while len(pairs) < count:
        more = int(1.02 * (count - len(pairs))) + 16
        user = names[0][popular(random, more, users, shape.user_peak)]
        item = names[1][popular(random, more, items, shape.item_peak)]
        pairs = np.concatenate([pairs, user * items + item])
        pairs.sort()
        pairs = pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])]
    surplus = random.choice(len(pairs), len(pairs) - count, replace=False)
    return np.delete(pairs, surplus)


def low_rank(
    random: np.random.Generator, user: Any, item: Any, sizes: tuple[int, int], rank: int
) -> npt.NDArray[np.float32]:
    """The model's number of each pair, of variance 1."""
    of_users, of_items = (
        random.standard_normal((size, rank), np.float32) / np.float32(rank**0.25) for size in sizes
    )
    z = np.empty(len(user), np.float32)
    for start in range(0, len(user), CHUNK):
        some = slice(start, start + CHUNK)
        np.einsum("ij,ij->i", of_users[user[some]], of_items[item[some]], out=z[some])
    return z
