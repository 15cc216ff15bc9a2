"""Other libraries' linear classifiers, of the same objective: mean loss and half a squared norm."""

from __future__ import annotations

from typing import Any

from asyncopt.studies.sparse.subject import Library, Settings


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
        """Of either loss."""
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
        """Of logistic regression."""
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
        """Of either loss."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC

        common = {
            "C": self._strength(rows),
            "dual": True,
            "max_iter": settings.epochs,
            "tol": 1e-12,  # it takes no 0
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
        """Of either loss."""
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
