"""Items in the order of their scores: the best ones, and how well they were ranked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

__all__ = ["best_items", "mean_area"]

SCORES = 1 << 24
"""At most so many are held at once."""

_Floats = npt.NDArray[np.float32]
_Users = npt.NDArray[np.int64]
Scores = Callable[[_Users], _Floats]
"""The scores of all items for some users, shape (users, items)."""


def best_items(
    scores: Scores, users: _Users, items: int, most: int, known: Any
) -> tuple[npt.NDArray[np.int64], _Floats]:
    """Each user's items of the highest scores, best first.

    Args:
        scores: of some users.
        users: shape (n,).
        items: how many there are.
        most: to return for each user, at most ``items``.
        known: CSR matrix of users by items whose entries are left out; None: nothing is.

    Returns:
        Items and their scores, of shape (n, most); -1 and minus infinity where there are no more.
    """
    best = np.empty((len(users), most), np.int64)
    found = np.empty((len(users), most), np.float32)
    for at in _pieces(len(users), items):
        every = scores(users[at])
        if known is not None:
            every[sparse.coo_array(known[users[at]]).coords] = -np.inf
        top = np.argpartition(every, -most, axis=1)[:, -most:]
        values = np.take_along_axis(every, top, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        best[at] = np.take_along_axis(top, order, axis=1)
        found[at] = np.take_along_axis(values, order, axis=1)
    best[np.isneginf(found)] = -1
    return best, found


def mean_area(scores: Scores, liked: Any, known: Any) -> float:
    """The mean over users of the area under the ROC curve; NaN if no user has both kinds of items.

    Args:
        scores: of some users.
        liked: CSR matrix of users by items, which should come first.
        known: likewise, left out; None: nothing is.
    """
    users = np.flatnonzero(np.diff(liked.indptr))
    areas = []
    for at in _pieces(len(users), liked.shape[1]):
        for user, mine_and_others in zip(users[at], scores(users[at]), strict=True):
            mine = liked.indices[liked.indptr[user] : liked.indptr[user + 1]]
            others = np.ones(len(mine_and_others), bool)
            others[mine] = False
            if known is not None:
                others[known.indices[known.indptr[user] : known.indptr[user + 1]]] = False
            ranked = np.sort(mine_and_others[others])
            if len(ranked):
                below = np.searchsorted(ranked, mine_and_others[mine], "left")
                below += np.searchsorted(ranked, mine_and_others[mine], "right")
                areas.append(below.mean() / (2 * len(ranked)))
    return float(np.mean(areas)) if areas else float("nan")


def _pieces(users: int, items: int) -> Iterator[slice]:
    size = max(SCORES // items, 1)
    return (slice(at, at + size) for at in range(0, users, size))
