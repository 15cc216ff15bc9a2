"""Matrix factorization: ratings, and rankings of what users like."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from asyncopt import _core
from asyncopt._checks import one_of, real, real_or_none, whole
from asyncopt.sparse.convergence import at_rest, warn_unconverged
from asyncopt.sparse.matrices import canonical, indices, sound
from asyncopt.sparse.rankings import best_items, mean_area
from asyncopt.sparse.tiles import Tiles, aligned

__all__ = ["MatrixFactorization"]

_Floats = npt.NDArray[np.float32]


class _Defaults(NamedTuple):
    regularization: float
    eta0: float


DEFAULTS = {"squared_error": _Defaults(0.1, 0.03), "bpr": _Defaults(0.02, 0.15)}
"""Chosen on held-out data of several sets: ``benches/test_bpr_defaults.py``."""
DECAY = 0.95
LOOKS = 5
"""Passes between checks of how far factors move."""


class MatrixFactorization(BaseEstimator):  # type: ignore[misc]
    """Factors of a sparse matrix of users by items, trained by several threads at once.

    The rating of item i by user u is predicted as ``mean + p_u . q_i + b_u + c_i`` (Koren, Bell and
    Volinsky, Computer 2009), with the squared error; or, with ``loss="bpr"``, items are ranked by
    ``p_u . q_i + c_i`` so that a user's liked items come before unknown ones (Rendle et al., UAI
    2009). Both use Hogwild! stochastic gradient descent (Niu et al., arXiv 1106.5730).

    Entries that a sparse matrix does not store, or zeros of a dense one, are unknown.

    Args:
        loss: "squared_error" or "bpr". A ranking treats every entry above zero as liked, and
            compares it in each pass with an item drawn uniformly from the user's other items.
            Entries of a user who likes all items make no step.
        n_factors: of each user and item, k. Rows of k + 2 floats are padded to a multiple of 16.
        regularization: half of it times the squares of the factors and biases of an entry is added
            to the entry's loss. None: 0.1 for "squared_error", 0.02 for "bpr". Raise it if users or
            items have few entries.
        eta0: the learning rate of the first pass. None: 0.03 for "squared_error", which suits
            ratings whose deviation is about 1, and 0.15 for "bpr".
        decay: the learning rate of pass n is ``eta0 * decay ** n``. None: 0.95 in `fit`, so that it
            converges, and 1 in `partial_fit`.
        max_iter: largest number of passes over the entries. A fit that reaches it before ``tol`` is
            met warns.
        tol: stop when the users' and items' factors and biases each moved by at most this share of
            their Euclidean norm in a pass, checked in every fifth pass and in the last; None: make
            ``max_iter`` passes, and do not warn.
        init_scale: initial factors are normal with this standard deviation over ``sqrt(k)``.
        sync: how threads share the factors: "hogwild", "atomic", "mutex", or "ordered", which
            gives the same bits for any number of threads; not for "bpr", whose drawn items may
            conflict.
        n_threads: number of training threads.
        random_state: seed or generator. The same seed, one thread and the same calls give the same
            bits. A seed starts a stream of random numbers in `fit`, which `partial_fit` continues.

    Attributes:
        user_factors_: float32 of shape (users, k).
        item_factors_: float32 of shape (items, k).
        user_biases_: float32 of shape (users,); zeros for a ranking.
        item_biases_: float32 of shape (items,).
        mean_: of the ratings; 0 for a ranking.
        n_iter_: passes made by the last call.
        loss_curve_: mean loss of the entries in each pass, each before its own step.
        n_features_in_: items.

    Raises:
        ValueError: an argument is out of its range, or the factors did not stay finite.
    """

    user_factors_: _Floats
    item_factors_: _Floats
    user_biases_: _Floats
    item_biases_: _Floats
    loss_curve_: list[float]
    n_iter_: int

    #: The seed of the last call, if it had one, and its random stream.
    _stream: tuple[numbers.Integral, np.random.RandomState] | None = None

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        n_factors: int = 30,
        regularization: float | None = None,
        eta0: float | None = None,
        decay: float | None = None,
        max_iter: int = 200,
        tol: float | None = 5e-3,
        init_scale: float = 0.1,
        sync: str = "hogwild",
        n_threads: int = 1,
        random_state: Any = None,
    ) -> None:
        self.loss = loss
        self.n_factors = n_factors
        self.regularization = regularization
        self.eta0 = eta0
        self.decay = decay
        self.max_iter = max_iter
        self.tol = tol
        self.init_scale = init_scale
        self.sync = sync
        self.n_threads = n_threads
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on ratings, from the start.

        Args:
            X: of shape (users, items), sparse or dense.
            y: not used.

        Raises:
            ValueError: an argument is wrong, or the factors did not stay finite.

        Warns:
            ConvergenceWarning: ``max_iter`` passes did not meet ``tol``.
        """
        self._check_parameters()
        decay = DECAY if self.decay is None else self.decay
        if not self._fit(X, self.max_iter, decay, self.tol):
            warn_unconverged(self, self.max_iter)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Make one pass over ratings, which may be others of the same users and items.

        The mean stays that of the first call.
        """
        self._check_parameters()
        decay = 1.0 if self.decay is None else self.decay
        if not hasattr(self, "user_factors_"):
            self._fit(X, 1, decay, None)
            return self
        k = self.user_factors_.shape[1]
        if self.n_factors != k:
            raise ValueError(f"n_factors: expected {k} as in fit, got {self.n_factors}")
        self._train(
            self._check_ratings(X, reset=False),
            1,
            decay,
            None,
            self._random(restart=False),
            (self.user_factors_, self.user_biases_),
            (self.item_factors_, self.item_biases_),
            self.mean_,
            self.loss_curve_,
        )
        return self

    def predict_pairs(self, users: Any, items: Any) -> _Floats:
        """Predicted ratings, or scores to rank by, of pairs.

        Args:
            users: integers of shape (pairs,).
            items: likewise.

        Returns:
            float32 of shape (pairs,).
        """
        check_is_fitted(self, "user_factors_")
        users = indices("users", users, len(self.user_factors_))
        items = indices("items", items, len(self.item_factors_))
        if len(users) != len(items):
            raise ValueError(
                f"users, items: expected as many of both, got {len(users)} and {len(items)}"
            )
        products = np.einsum("nk,nk->n", self.user_factors_[users], self.item_factors_[items])
        biases = self.user_biases_[users] + self.item_biases_[items]
        return np.asarray(products + biases + np.float32(self.mean_), np.float32)

    def recommend(
        self, users: Any, n_items: int = 10, *, seen: Any = None
    ) -> tuple[npt.NDArray[np.int64], _Floats]:
        """Each user's items of the highest scores, best first.

        Args:
            users: integers of shape (n,).
            n_items: for each; all items if there are fewer.
            seen: matrix of users by items whose stored entries are left out, such as that of fit.

        Returns:
            Items, int64 of shape (n, min(n_items, items)), and their scores, float32 of that shape.
            If a user has fewer unseen items, the rest are -1 with a score of minus infinity.

        Raises:
            ValueError: an argument is wrong.
        """
        check_is_fitted(self, "user_factors_")
        users = indices("users", users, len(self.user_factors_))
        items = len(self.item_factors_)
        whole("n_items", n_items, 1)
        return best_items(self._scores, users, items, min(n_items, items), self._check_seen(seen))

    def score(self, X: Any, y: Any = None, *, seen: Any = None) -> float:
        """Score of predicted ratings or rankings.

        Args:
            X: matrix of users by items.
            y: not used.
            seen: for a ranking: entries to ignore, such as those of fit.

        Returns:
            The coefficient of determination of the stored ratings; for a ranking, the mean area
            under the users' ROC curves: the probability that a liked item comes before one that is
            neither liked nor seen; nan if no user has items of both kinds.
        """
        check_is_fitted(self, "user_factors_")
        ratings = self._check_ratings(X, reset=False)
        if self._ranks:
            return mean_area(self._scores, ratings.tocsr(), self._check_seen(seen))
        return float(r2_score(ratings.data.astype(np.float64), self.predict_pairs(*ratings.coords)))

    @property
    def _ranks(self) -> bool:
        return self.loss == "bpr"

    def _check_parameters(self) -> None:
        one_of("loss", self.loss, _core.factor_losses())
        one_of("sync", self.sync, _core.factor_syncs())
        if self._ranks and self.sync == "ordered":
            raise ValueError(
                "sync: expected one of 'hogwild', 'atomic', 'mutex' with loss='bpr', whose drawn "
                "items may be those of any thread; got 'ordered'"
            )
        whole("n_factors", self.n_factors, 1)
        real_or_none("regularization", self.regularization, 0)
        real_or_none("eta0", self.eta0, 0, open_=True)
        real_or_none("decay", self.decay, 0, 1, open_=True)
        whole("max_iter", self.max_iter, 1)
        real_or_none("tol", self.tol, 0)
        real("init_scale", self.init_scale, 0)
        whole("n_threads", self.n_threads, 1)

    def _check_ratings(self, X: Any, reset: bool) -> Any:
        """The known entries, in coordinates."""
        X = validate_data(
            self,
            sound("X", X),
            accept_sparse="csr",
            accept_large_sparse=True,
            dtype=[np.float32, np.float64],
            reset=reset,
        )
        if not reset and X.shape[0] != len(self.user_factors_):
            raise ValueError(
                f"X: expected {len(self.user_factors_)} users as in fit, got {X.shape[0]}"
            )
        ratings = sparse.coo_array(canonical(X))
        if max(ratings.shape) >= 2**31:
            raise ValueError(f"X: expected less than 2 ** 31 users and items, got {ratings.shape}")
        if self._ranks and (ratings.data <= 0).any():
            liked = ratings.data > 0
            coords = tuple(numbers[liked] for numbers in ratings.coords)
            ratings = sparse.coo_array((ratings.data[liked], coords), shape=ratings.shape)
        if ratings.nnz == 0:
            kind = "above zero" if self._ranks else "stored"
            raise ValueError(f"X: expected at least one entry {kind}, got none")
        return ratings

    def _check_seen(self, seen: Any) -> Any:
        """Its stored entries, as CSR; None as it is."""
        if seen is None:
            return None
        known = sound("seen", seen if sparse.issparse(seen) else np.asarray(seen))
        expected = len(self.user_factors_), len(self.item_factors_)
        if known.shape != expected or known.dtype.kind not in "biuf":
            raise ValueError(
                f"seen: expected numbers of shape {expected}, as in fit, got {known.dtype} of "
                f"shape {known.shape}"
            )
        return canonical(known)

    def _fit(self, X: Any, passes: int, decay: float, tol: float | None) -> bool:
        ratings = self._check_ratings(X, reset=True)
        random = self._random(restart=True)
        scale = self.init_scale / np.sqrt(self.n_factors)
        users, items = (
            (
                (random.standard_normal((size, self.n_factors)) * scale).astype(np.float32),
                np.zeros(size, np.float32),
            )
            for size in ratings.shape
        )
        mean = 0.0 if self._ranks else float(ratings.data.mean(dtype=np.float64))
        return self._train(ratings, passes, decay, tol, random, users, items, mean, [])

    def _random(self, restart: bool) -> np.random.RandomState:
        """The random stream for training; a seed's stream continues unless ``restart`` is true."""
        seed = self.random_state
        if not isinstance(seed, numbers.Integral):
            stream: np.random.RandomState = check_random_state(seed)
            return stream
        if restart or self._stream is None or self._stream[0] != seed:
            self._stream = seed, check_random_state(seed)
        return self._stream[1]

    def _train(
        self,
        ratings: Any,
        passes: int,
        decay: float,
        tol: float | None,
        random: np.random.RandomState,
        users_before: tuple[_Floats, _Floats],
        items_before: tuple[_Floats, _Floats],
        mean: float,
        curve_before: list[float],
    ) -> bool:
        """Train from these factors and biases; if that fails, the attributes are not changed.

        Returns:
            True if the passes met ``tol`` or it is None.
        """
        default = DEFAULTS[self.loss]
        eta0 = default.eta0 if self.eta0 is None else self.eta0
        regularization = (
            default.regularization if self.regularization is None else self.regularization
        )
        k, stride = self.n_factors, _core.factor_stride(self.n_factors)
        users = _padded(stride, users_before[0], 1.0, users_before[1])
        items = _padded(stride, items_before[0], items_before[1], 1.0)
        tiles = Tiles.of_ratings(ratings, users.strides[0], random)
        liked = ratings.tocsr()
        rates = np.zeros((2, stride), np.float32)
        call: dict[str, Any] = {
            "loss": self.loss,
            "sync": self.sync,
            "threads": self.n_threads,
            "users": tiles.rows,
            "items": tiles.columns,
            "values": tiles.values,
            "liked_begin": liked.indptr.astype(np.int64),
            "liked_items": liked.indices.astype(np.int32),
            "begin": tiles.begin,
            "groups": tiles.groups,
            "user_factors": users,
            "item_factors": items,
            "user_rates": rates[0],
            "item_rates": rates[1],
            "regularization": regularization,
            "mean": mean,
        }
        curve = list(curve_before)
        rest = tol is None
        for done in range(1, passes + 1):
            looks = tol is not None and (done % LOOKS == 0 or done == passes)
            before = (users.copy(), items.copy()) if looks else None
            rates[:, : k + 2] = eta0 * decay ** len(curve)
            rates[0, k] = rates[1, k + 1] = 0  # the ones beside the biases
            seed = int(random.randint(2**31))
            loss = _core.train_factors(**call, order=tiles.order(random), seed=seed)
            curve.append(loss / len(tiles))
            if before is not None and tol is not None:
                rest = all(
                    at_rest(now[:, part], then[:, part], tol)
                    for now, then in zip((users, items), before, strict=True)
                    for part in (slice(k), slice(k, k + 1), slice(k + 1, k + 2))
                )
            if rest and tol is not None:
                break
        if not all(np.isfinite(each).all() for each in (users, items, curve)):
            raise ValueError(
                f"eta0: expected a learning rate at which factors stay finite, got {eta0:g}; "
                "lower it, or scale the ratings"
            )
        self.user_factors_, self.item_factors_ = users[:, :k].copy(), items[:, :k].copy()
        self.user_biases_, self.item_biases_ = users[:, k + 1].copy(), items[:, k].copy()
        self.mean_ = mean
        self.loss_curve_ = curve
        self.n_iter_ = len(curve) - len(curve_before)
        return rest

    def _scores(self, users: npt.NDArray[np.int64]) -> _Floats:
        """Scores of all items, shape (users, items)."""
        scores = self.user_factors_[users] @ self.item_factors_.T
        scores += self.item_biases_
        scores += self.user_biases_[users, np.newaxis] + np.float32(self.mean_)
        return np.asarray(scores)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.non_deterministic = self.n_threads != 1 and self.sync != "ordered"
        return tags


def _padded(stride: int, factors: _Floats, first: Any, second: Any) -> _Floats:
    """Rows of factors, two columns and zeros; each row begins at its own cache line."""
    rows, k = factors.shape
    padded = aligned(rows, stride)
    padded[:, :k], padded[:, k], padded[:, k + 1] = factors, first, second
    return padded
