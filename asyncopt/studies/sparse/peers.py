"""Other libraries on the same problems; the only module that imports them.

Linear classifiers minimize the same objective: mean loss and half a squared norm.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from asyncopt.studies.sparse.problem import Library, Settings

UNIT = 1e-5  # of weight: flows are integers
ENDLESS = 2**30


class Linear(Library):
    """Trains a linear classifier with ``coef_``, ``intercept_``, ``classes_`` and ``predict``.

    Args:
        loss: ``"hinge"`` or ``"log_loss"``.
        alpha: weight of the penalty.
    """

    def __init__(self, loss: str, alpha: float) -> None:
        self.loss = loss
        self.alpha = alpha

    def estimator(self, rows: int, settings: Settings, workers: int) -> Any:
        """A model that makes as many passes, to be trained on `rows` examples."""
        raise NotImplementedError

    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """Train it on a `Split`."""
        model = self.estimator(len(prepared.y), settings, workers)
        return model.fit(prepared.X, prepared.y)

    def _strength(self, rows: int) -> float:
        """Weight of the summed losses where that of the penalty is 1."""
        return 1 / (self.alpha * rows)


class SklearnSgd(Linear):
    """scikit-learn's stochastic gradient descent, with its default steps (Bottou's)."""

    label = "SGDClassifier"
    module = "sklearn"
    threaded = False

    def estimator(self, rows: int, settings: Settings, workers: int) -> Any:
        """For either loss."""
        from sklearn.linear_model import SGDClassifier

        return SGDClassifier(
            loss=self.loss,
            alpha=self.alpha,
            max_iter=settings.epochs,
            tol=None,
            random_state=settings.seed,
        )


class Saga(Linear):
    """scikit-learn's SAGA (Defazio et al., NIPS 2014)."""

    label = "SAGA"
    module = "sklearn"
    threaded = False

    def estimator(self, rows: int, settings: Settings, workers: int) -> Any:
        """Logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(
            C=self._strength(rows),
            solver="saga",
            max_iter=settings.epochs,
            tol=0,
            random_state=settings.seed,
        )


class Liblinear(Linear):
    """Dual coordinate descent of LIBLINEAR, which scikit-learn has; penalizes the intercept too."""

    label = "LIBLINEAR"
    module = "sklearn"
    threaded = False

    def estimator(self, rows: int, settings: Settings, workers: int) -> Any:
        """For either loss."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC

        common = {
            "C": self._strength(rows),
            "dual": True,
            "max_iter": settings.epochs,
            "tol": 1e-12,  # 0 is refused
            "random_state": settings.seed,
        }
        if self.loss == "hinge":
            return LinearSVC(loss="hinge", **common)
        return LogisticRegression(solver="liblinear", **common)


class SnapMl(Linear):
    """IBM's dual coordinate descent on several threads; penalizes the intercept too."""

    label = "snapml"
    module = "snapml"

    def estimator(self, rows: int, settings: Settings, workers: int) -> Any:
        """For either loss."""
        import snapml

        kinds = {"hinge": snapml.SupportVectorMachine, "log_loss": snapml.LogisticRegression}
        return kinds[self.loss](
            regularizer=self.alpha * rows,
            fit_intercept=True,
            max_iter=settings.epochs,
            tol=0.0,
            n_jobs=workers,
            random_state=settings.seed,
        )


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
        """Predictions from the factors, because the ``predict`` of libmf 0.9.2 confuses pairs."""
        return Products(fitted.p_factors(), fitted.q_factors(), fitted.model.b)


class Products(NamedTuple):
    """Factors whose products are ratings.

    Attributes:
        users: float32 of shape (users that were seen, k); NaN for those between that were not.
        items: likewise.
        mean: the rating of unknown users and items.
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
        """Ranking from the factors, which include the biases."""
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


class MaximumFlow(Library):
    """scipy's (Dinic's algorithm), from all voxels of class 0 to all of class 1."""

    label = "maximum_flow"
    module = "scipy"
    threaded = False

    def prepare(self, data: Any) -> Any:
        """The network: the edges, and a source and a sink joined to the labelled voxels."""
        from scipy import sparse

        n, (tails, heads) = len(data.y), data.X.nonzero()
        of_source, of_sink = np.flatnonzero(data.y == 0), np.flatnonzero(data.y == 1)
        weights = np.rint(np.asarray(data.X[tails, heads]).ravel() / UNIT)
        endless = np.full(len(of_source) + len(of_sink), ENDLESS)
        capacities = np.concatenate([weights, endless]).astype(np.int32)
        tails = np.concatenate([tails, np.full(len(of_source), n), of_sink])
        heads = np.concatenate([heads, of_source, np.full(len(of_sink), n + 1)])
        return sparse.csr_array((capacities, (tails, heads)), shape=(n + 2, n + 2))

    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """The residual capacities."""
        from scipy.sparse.csgraph import maximum_flow

        n = prepared.shape[0] - 2
        return prepared - maximum_flow(prepared, n, n + 1).flow

    def judged(self, fitted: Any, data: Any) -> Any:
        """Class 0: the voxels that the source reaches in the residual network."""
        from scipy.sparse.csgraph import breadth_first_order

        fitted.eliminate_zeros()
        reached = breadth_first_order(fitted, len(data.y), return_predecessors=False)
        classes = np.ones(len(data.y) + 2, np.int64)
        classes[reached] = 0
        return classes[:-2]
