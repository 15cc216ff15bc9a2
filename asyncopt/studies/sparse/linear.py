"""Linear classifiers: a support vector machine on text, logistic regression in RCV1's shape."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asyncopt import _core
from asyncopt.report.text import four_digits
from asyncopt.studies.rows import Measure
from asyncopt.studies.sparse.peers import Liblinear, Saga, SklearnSgd, SnapMl
from asyncopt.studies.sparse.problem import Settings, SparseComparison, SparseProblem, in_order

ALPHA = 1e-5
HELD_OUT = 0.2
QUICK_ROWS = 20_000


class Split(NamedTuple):
    """Examples to train and to test with: CSR, and labels of two classes."""

    X: Any
    y: NDArray[Any]
    test_X: Any
    test_y: NDArray[Any]


def percent(share: float) -> str:
    """``1.23%``."""
    return f"{share:.2%}"


class LinearProblem(SparseProblem):
    """A linear classifier of two classes with an L2 penalty, trained by AdaGrad."""

    # All share the intercept, and most some column: "ordered" would leave them to one thread.
    syncs = in_order(sync for sync in _core.linear_syncs() if sync != "ordered")
    measures = (
        Measure("train_error", "train error", "share of wrong training examples", percent),
        Measure("test_error", "test error", "share of wrong held-out examples", percent),
        Measure("objective", "objective", "mean training loss and the penalty", four_digits),
    )
    loss: str

    @abstractmethod
    def examples(self, plan: SparseComparison) -> tuple[Any, NDArray[Any]]:
        """All examples and their labels."""

    def load(self, plan: SparseComparison) -> Split:
        """A fifth is held out."""
        X, y = self.examples(plan)
        order = np.random.default_rng(plan.seed).permutation(len(y))
        cut = int(len(y) * (1 - HELD_OUT))
        first, rest = order[:cut], order[cut:]
        return Split(X[first], y[first], X[rest], y[rest])

    def fit(self, data: Split, sync: str, workers: int, settings: Settings) -> Any:
        """A `LinearClassifier`."""
        from asyncopt.sparse import LinearClassifier

        model = LinearClassifier(
            self.loss,
            alpha=ALPHA,
            learning_rate="adagrad",
            **settings.estimator(sync, workers),
        )
        return model.fit(data.X, data.y)

    def score(self, data: Split, model: Any) -> dict[str, float]:
        """Errors and the objective, for ours and the libraries' models alike."""
        return {
            "train_error": float(np.mean(model.predict(data.X) != data.y)),
            "test_error": float(np.mean(model.predict(data.test_X) != data.test_y)),
            "objective": self._objective(data, model),
        }

    def _objective(self, data: Split, model: Any) -> float:
        weights = np.ravel(model.coef_).astype(np.float64)
        decisions = data.X @ weights + float(np.ravel(model.intercept_)[0])
        margins = np.where(data.y == model.classes_[1], 1, -1) * decisions
        loss = np.maximum(0, 1 - margins) if self.loss == "hinge" else np.logaddexp(0, -margins)
        return float(loss.mean() + ALPHA / 2 * np.square(weights).sum())


class LikeRcv1(LinearProblem):
    """Logistic regression on synthetic data in the shape of RCV1."""

    name = "rcv1-shaped"
    title = "Logistic regression, shaped like RCV1"
    about = (
        "Logistic regression with an L2 penalty on synthetic text: 200,000 examples (20,000 with "
        "--quick), 47,236 columns whose frequency falls like a power law, 73 nonzeros in each row, "
        "as in RCV1; a fifth is held out."
    )
    epochs, quick_epochs = 10, 5
    lr = 0.5
    seconds = 0.15
    loss = "log_loss"
    libraries = (
        SklearnSgd(loss, ALPHA),
        Saga(loss, ALPHA),
        Liblinear(loss, ALPHA),
        SnapMl(loss, ALPHA),
    )

    def examples(self, plan: SparseComparison) -> tuple[Any, NDArray[Any]]:
        """Synthetic."""
        from asyncopt.sparse import make_like

        X, y = make_like("rcv1", rows=QUICK_ROWS if plan.quick else None, seed=plan.seed)
        return X, y


class TextSvm(LinearProblem):
    """A support vector machine on the words of documentation."""

    name = "sparse-svm"
    title = "Sparse support vector machine on text"
    about = (
        "A support vector machine (hinge loss, L2 penalty) that separates the docstrings of "
        "scikit-learn and scipy by their words: about 7,000 rows of TF-IDF, 27,000 "
        "columns, 70 nonzeros in each row; a fifth is held out."
    )
    epochs, quick_epochs = 100, 20
    lr = 0.5
    seconds = 0.01
    loss = "hinge"
    libraries = (
        SklearnSgd(loss, ALPHA),
        Liblinear(loss, ALPHA),
        SnapMl(loss, ALPHA),
    )
    packages = ("scipy", "sklearn")

    def examples(self, plan: SparseComparison) -> tuple[Any, NDArray[Any]]:
        """The docstrings of installed packages."""
        from asyncopt.sparse import bag_of_words

        return bag_of_words(self.packages)
