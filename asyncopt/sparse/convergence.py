"""Stopping criteria of fits, and the warning if ``max_iter`` ends one first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from asyncopt.sparse.state import State
from asyncopt.warn import warn_caller

__all__ = ["Patience", "Plateau", "Rest", "at_rest", "warn_unconverged"]


class Plateau:
    """Counts passes without progress of a score.

    Args:
        tol: a score is progress if it exceeds the best one by more than this; None: never stop.
        passes: number of passes in a row without progress that end training.
    """

    def __init__(self, tol: float | None, passes: int) -> None:
        self.tol = tol
        self._passes = passes
        self._waited = 0
        self.best = -np.inf

    def reached(self, score: float) -> bool:
        """True if training should end; called after each pass. NaN is no progress."""
        progress = score > self.best + (self.tol or 0)
        self._waited = 0 if progress else self._waited + 1
        self.best = max(self.best, score)
        return self.tol is not None and self._waited >= self._passes

    def start_over(self) -> None:
        """Reset the count of passes, not the best score."""
        self._waited = 0


class Patience:
    """Ends training when a score has not risen by ``tol`` for ``passes`` passes.

    Args:
        score: function of a model's state and the mean loss of the pass; higher is better.
        tol: as in `Plateau`; None: train all passes.
        passes: as in `Plateau`.
        keep_best: restore the model with the best score at the end, with or without ``tol``.
    """

    def __init__(
        self,
        score: Callable[[State, float], float],
        tol: float | None,
        passes: int,
        keep_best: bool,
    ) -> None:
        self._score = score
        self._plateau = Plateau(tol, passes)
        self._keep_best = keep_best
        self._kept: State | None = None

    @property
    def needs_state(self) -> bool:
        """True if scores are needed."""
        return self.can_end or self._keep_best

    @property
    def can_end(self) -> bool:
        """True if there is a criterion."""
        return self._plateau.tol is not None

    def ends(self, state: State, loss: float) -> bool:
        """True if training should end; called after each pass."""
        score = self._score(state, loss)
        if self._keep_best and score > self._plateau.best:
            self._kept = copy.deepcopy(state)
        return self._plateau.reached(score)

    def start_over(self) -> None:
        """Reset the count of passes; called after the learning rate was lowered."""
        self._plateau.start_over()

    def restore_best(self, state: State) -> bool:
        """Restore the best model if it was kept; returns whether it was."""
        if self._kept is None:
            return False
        vars(state).update(vars(self._kept), t=state.t)
        return True


class Rest:
    """Detects weights at rest: none moved in a pass by more than ``tol`` of the largest one.

    With short steps, weights may rest far from the optimum; `Exact.at_optimum` detects that.

    Args:
        tol: None: train all passes.
        weights: before the first pass.
    """

    def __init__(self, tol: float | None, weights: npt.NDArray[np.float64]) -> None:
        self.tol = tol
        self._before = weights.copy()

    @property
    def needs_state(self) -> bool:
        """True if there is a criterion."""
        return self.tol is not None

    can_end = needs_state

    def ends(self, state: State, loss: float) -> bool:
        """True if weights are at rest; called after each pass in which they may move."""
        assert self.tol is not None
        moved = np.abs(state.weights - self._before).max(initial=0)
        self._before = state.weights.copy()
        return bool(moved <= self.tol * np.abs(state.weights).max(initial=0))

    def restore_best(self, state: State) -> bool:
        """The last model is the best."""
        return False


def at_rest(now: npt.NDArray[Any], before: npt.NDArray[Any], tol: float) -> bool:
    """True if numbers moved by at most ``tol`` of their Euclidean norm."""
    with np.errstate(over="ignore", invalid="ignore"):  # the caller checks that all are finite
        return bool(np.linalg.norm(now - before) <= tol * np.linalg.norm(now))


def warn_unconverged(estimator: Any, passes: int, remedy: str = "") -> None:
    """Issue scikit-learn's ConvergenceWarning: ``max_iter`` passes did not meet the criterion.

    Args:
        estimator: that was fitted.
        passes: that it made.
        remedy: what to try first; ends with ", or " before more passes and a larger ``tol``.
    """
    many = f"{passes} pass{'es' * (passes != 1)}"
    warn_caller(
        f"{type(estimator).__name__} did not converge in {many}; {remedy}raise max_iter or tol",
        ConvergenceWarning,
    )
