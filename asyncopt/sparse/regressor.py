"""``LinearRegressor``, and one of a custom loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from asyncopt._checks import real
from asyncopt.sparse.base import LinearModel, visits_once
from asyncopt.sparse.custom_loss import CustomLoss

__all__ = ["LinearRegressor", "custom"]


class LinearRegressor(RegressorMixin, LinearModel):  # type: ignore[misc]
    """Linear regression by stochastic steps on sparse data, on several threads.

    `asyncopt.sparse.LinearClassifier` describes the other arguments.

    Args:
        loss: ``"squared_error"`` (half the squared error), ``"huber"`` or a `CustomLoss`.
        epsilon: the error from which ``"huber"`` grows linearly.
        early_stopping: hold out examples, stop by `score` on them instead of by the loss, and keep
            the best model, with ``tol=None`` too. Not in `partial_fit`.

    Attributes:
        coef_: float64 of shape (features,).
        intercept_: float64 of shape (1,).
        n_iter_: passes made.
        n_features_in_: columns of the examples.
        t_: examples seen.
    """

    _loss_names = ("squared_error", "huber")

    def __init__(
        self,
        loss: str | CustomLoss = "squared_error",
        *,
        solver: str = "sgd",
        nesterov: bool = False,
        penalty: str | None = "l2",
        alpha: float = 1e-4,
        l1_ratio: float = 0.15,
        epsilon: float = 1.35,
        learning_rate: str = "adagrad",
        eta0: float = 0.5,
        power_t: float = 0.25,
        average: bool | int = False,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        n_iter_no_change: int = 5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        shuffle: bool = True,
        fit_intercept: bool = True,
        warm_start: bool = False,
        verbose: int = 0,
        random_state: Any = None,
        n_threads: int = 1,
        sync: str | None = None,
    ) -> None:
        self.loss = loss
        self.solver = solver
        self.nesterov = nesterov
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.epsilon = epsilon
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.average = average
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.shuffle = shuffle
        self.fit_intercept = fit_intercept
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self.n_threads = n_threads
        self.sync = sync

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        coef_init: Any = None,
        intercept_init: Any = None,
    ) -> Self:
        """Train from the beginning or, with ``warm_start``, from the last call's model.

        Args:
            X: sparse or dense, shape (examples, features); converted to float32.
            y: numbers, shape (examples,).
            sample_weight: shape (examples,), not negative; multiplies the examples' losses.
            coef_init: initial `coef_`, shape (features,); None: zeros. Learning rates and `t_` are
                reset. Not for the solver ``"dual"``.
            intercept_init: initial `intercept_`, a number or of shape (1,).

        Raises:
            ValueError: an argument is wrong, or the weights did not stay finite.

        Warns:
            ConvergenceWarning: ``max_iter`` passes did not meet ``tol``.
        """
        self._check_parameters()
        again = self.warm_start and hasattr(self, "_states")
        with self._all_or_nothing():
            X, y = self._check_data(X, y, y_numeric=True, reset=not again)
            weights = self._weights(X, sample_weight)
            self._train(
                X,
                y[None],
                weights,
                self.max_iter,
                until=True,
                afresh=not again,
                coef_init=coef_init,
                intercept_init=intercept_init,
            )
        return self

    @available_if(visits_once)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on, with one pass over these examples; arguments and errors as in `fit`."""
        self._check_parameters()
        self._check_no_early_stopping()
        first = not hasattr(self, "_states")
        with self._all_or_nothing():
            X, y = self._check_data(X, y, y_numeric=True, reset=first)
            weights = self._weights(X, sample_weight)
            self._train(X, y[None], weights, 1, until=False, afresh=first)
        return self

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Predicted numbers, shape (examples,)."""
        return self._decisions(X)[:, 0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The R² of the predictions; under a custom loss minus their mean loss, greater is better.

        Args:
            X: as in `fit`.
            y: as in `fit`.
            sample_weight: as in `fit`.
        """
        if isinstance(self.loss, CustomLoss):
            return -self.loss.mean(self.predict(X), y, sample_weight)
        return float(super().score(X, y, sample_weight))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        real("epsilon", self.epsilon, 0, open_=True)

    @staticmethod
    def _shaped(coef: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(coef[0])

    def _score_held_out(self, predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
        if isinstance(self.loss, CustomLoss):
            return -self.loss.mean(predictions, targets)
        return float(r2_score(targets, predictions))


def custom(
    loss: Callable[[float, float], Any],
    *,
    derivative: Callable[[float, float], Any] | None = None,
    curvature: float = 1.0,
    check: bool = True,
    **parameters: Any,
) -> LinearRegressor:
    """A `LinearRegressor` of a loss of your own, compiled by numba.

    Args:
        loss: as `CustomLoss`, like the next three.
        derivative: of the loss.
        curvature: of the loss.
        check: the derivative.
        parameters: of `LinearRegressor`.

    Raises:
        ImportError, TypeError, ValueError: as `CustomLoss`.
    """
    made = CustomLoss(loss, derivative, curvature=curvature, check=check)
    return LinearRegressor(made, **parameters)
