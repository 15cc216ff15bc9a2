"""Nesterov's momentum for the solvers that end at the optimum."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt.sparse.settings import Settings

__all__ = ["PULLS", "Momentum"]

PULLS = {"dual": 0.3, "saga": 3.0, "svrg": 1.0}
"""How strong the pull to the center is at first, over the curvature of an example's part in the
mean loss: of a mean one for the dual, of the steepest for the others. A third or three times as
much took up to twice the passes."""
RISE = 0.01
"""By which part an objective is higher than that of the round before if momentum is too much, and
not just by chance."""


class Momentum:
    """Accelerated proximal points: Catalyst, Lin et al., arXiv 1506.02186.

    Of the dual they are Shalev-Shwartz and Zhang's (ICML 2014). Each round of passes is on the
    objective plus ``pull * |w - center| ** 2 / 2``, which is better conditioned, from where the
    last round ended; then the center moves beyond there, as far as Nesterov's momentum goes. Of
    the square, ``pull * |w| ** 2 / 2`` is a larger l2 penalty. What is linear in the weights goes
    where the engine has a place for it: SAGA's and SVRG's mean of the gradients has
    ``-pull * center`` added; the dual's weights are ``pull / l2 * center`` plus the sum over the
    examples, with the larger l2.

    Momentum begins again where it has led away from the optimum (O'Donoghue and Candes, 2015).
    Rounds are not exact. Where they are too far from that for momentum, which threads that know
    little of each other make worse, the objective rises: then the pull is doubled, with which a
    round comes nearer to its optimum.

    Args:
        trainer: before the first round.
        settings: the step's, with the penalty.
        pull: how strong it is at first, above 0.
        columns: that are penalized, which it is on; bool of shape (columns,).
    """

    def __init__(
        self,
        trainer: _core.LinearTrainer,
        settings: Settings,
        pull: float,
        columns: npt.NDArray[np.bool_],
    ) -> None:
        self._settings, self._pull, self._columns = settings, pull, columns
        self._a = 1.0  # theory's alpha
        self._objective = math.inf
        self._last = self._center = trainer.weights.astype(np.float64)

    @property
    def l2(self) -> float:
        """The penalty of the round."""
        return self._settings.l2 + self._pull

    def next_round(self, trainer: _core.LinearTrainer, loss: float) -> None:
        """Move the center, and the weights as much nearer to the round's end.

        Args:
            trainer: after a round.
            loss: the mean one, in its last pass.
        """
        weights = trainer.weights.astype(np.float64)
        step = np.where(self._columns, weights - self._last, 0)
        rose = self._rose(weights, loss)
        l2, pull = self.l2, self._pull
        if rose:
            self._pull *= 2
        if rose or np.dot(self._center - weights, step) > 0:
            self._a, ahead = 1.0, 0.0
        else:
            square, q = self._a**2, self._settings.l2 / self.l2
            a = (q - square + math.sqrt((q - square) ** 2 + 4 * square)) / 2
            ahead = self._a * (1 - self._a) / (square + a)
            self._a = a
        center = weights + ahead * step
        moved = np.where(self._columns, self._pull * center - pull * self._center, 0)
        nearer = (l2 * weights + moved) / self.l2
        trainer.weights[:] = np.where(self._columns, nearer, weights)
        if len(trainer.sums):
            trainer.sums[:] -= moved
        self._last, self._center = weights, center

    def _rose(self, weights: npt.NDArray[np.float64], loss: float) -> bool:
        penalized = weights[self._columns]
        squares, sizes = float(np.dot(penalized, penalized)), float(np.abs(penalized).sum())
        before = self._objective
        self._objective = loss + self._settings.l2 / 2 * squares + self._settings.l1 * sizes
        return self._objective > (1 + RISE) * before
