"""Other libraries' matrix factorizations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from asyncopt.studies.sparse.subject import Library, Settings


class Factorization(Library):
    """Trains factors of a `Ratings`.

    Args:
        factors: of each user and item.
        regularization: weight of the squares of the factors.
    """

    def __init__(self, factors: int, regularization: float) -> None:
        self.factors = factors
        self.regularization = regularization


class LibMf(Factorization):
    """LIBMF (Chin et al., ACM TIST 2015): blocks that no two threads share, AdaGrad by rows."""

    label = "libmf"
    module = "libmf"

    def prepare(self, data: Any) -> Any:
        """Rows of user, item, rating."""
        return np.column_stack([*data.known.coords, data.known.data]).astype(np.float32)

    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """With its default learning rate."""
        from libmf import mf

        model = mf.MF(
            fun=mf.P_L2_MFR,
            k=self.factors,
            nr_threads=workers,
            nr_iters=settings.epochs,
            lambda_p2=self.regularization,
            lambda_q2=self.regularization,
            lambda_p1=0.0,
            lambda_q1=0.0,
            quiet=True,
        )
        model.fit(prepared)
        return model

    def judged(self, fitted: Any, data: Any) -> Any:
        """Its factors; its binding's own ``predict`` (0.9.2) confuses pairs."""
        return Products(fitted.p_factors(), fitted.q_factors(), fitted.model.b)


class Products(NamedTuple):
    """Factors whose products are ratings.

    Attributes:
        users: float32 of shape (users that were seen, k); NaN for those between that were not.
        items: likewise.
        mean: the rating of whom nothing is known of.
    """

    users: Any
    items: Any
    mean: float

    def predict_pairs(self, users: Any, items: Any) -> Any:
        """Ratings, float32 of shape (pairs,)."""
        found = np.full(len(users), np.nan, np.float32)
        known = (users < len(self.users)) & (items < len(self.items))
        mine, theirs = self.users[users[known]], self.items[items[known]]
        found[known] = np.einsum("nk,nk->n", mine, theirs)
        return np.where(np.isnan(found), np.float32(self.mean), found)


class ImplicitBpr(Factorization):
    """implicit's BPR; draws the items that it compares with by their popularity."""

    label = "implicit"
    module = "implicit"

    def prepare(self, data: Any) -> Any:
        """A matrix of users by items."""
        from scipy import sparse

        return sparse.csr_matrix(data.known)

    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """With the same learning rate."""
        from implicit.bpr import BayesianPersonalizedRanking

        model = BayesianPersonalizedRanking(
            factors=self.factors,
            learning_rate=settings.lr,
            regularization=self.regularization,
            iterations=settings.epochs,
            num_threads=workers,
            random_state=settings.seed,
        )
        model.fit(prepared, show_progress=False)
        return model

    def judged(self, fitted: Any, data: Any) -> Any:
        """Its biases are among the factors."""
        return ranking(data, fitted.user_factors, fitted.item_factors)


class LightFm(Factorization):
    """LightFM's BPR, AdaGrad by rows."""

    label = "lightfm-next"
    module = "lightfm"

    def prepare(self, data: Any) -> Any:
        """A matrix of users by items, of ones."""
        from scipy import sparse

        known = data.known
        return sparse.coo_matrix((np.ones_like(known.data), known.coords), shape=known.shape)

    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """With the same learning rate."""
        from lightfm import LightFM

        model = LightFM(
            no_components=self.factors,
            loss="bpr",
            learning_rate=settings.lr,
            user_alpha=self.regularization,
            item_alpha=self.regularization,
            random_state=settings.seed,
        )
        return model.fit(prepared, epochs=settings.epochs, num_threads=workers)

    def judged(self, fitted: Any, data: Any) -> Any:
        """Without the users' biases, which rank nothing."""
        return ranking(data, fitted.user_embeddings, fitted.item_embeddings, fitted.item_biases)


def ranking(data: Any, users: Any, items: Any, biases: Any = None) -> Any:
    """Another library's factors as a `MatrixFactorization`, to be scored as ours are."""
    from asyncopt.sparse import MatrixFactorization

    model = MatrixFactorization("bpr", n_factors=1, max_iter=1, tol=None).fit(data.known)
    model.user_factors_, model.item_factors_ = users, items
    model.item_biases_ = np.zeros(len(items), np.float32) if biases is None else biases
    return model
