"""Nesterov's momentum for the solvers that end at the optimum."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt.sparse.anchor import Anchor
from asyncopt.sparse.settings import Settings

__all__ = ["PULLS", "Momentum"]

PULLS = {"dual": 0.3, "saga": 3.0, "svrg": 1.0}
"""How strong the pull to the center is at first, over the curvature of an example's part in the
mean loss: of a mean one for the dual, of the steepest for the others. A third or three times as
much took up to twice the passes."""
RISE = 0.01
"""By which part an objective exceeds the least one so far if momentum is too much, and not just by
chance."""


class Momentum:
    """Accelerated proximal points: Catalyst, Lin et al., arXiv 1506.02186.

    Of the dual they are Shalev-Shwartz and Zhang's (ICML 2014). Each round of passes is on the
    objective plus ``pull * |w - center| ** 2 / 2``, which is better conditioned, from where the
    last round ended; then the center moves beyond there, as far as Nesterov's momentum goes. Of
    the square, ``pull * |w| ** 2 / 2`` is a larger l2 penalty on the differences from the anchor.
    The rest is linear in the weights: SAGA's and SVRG's mean of the gradients has ``-pull *
    (center - anchor)`` added; the dual's weights are ``pull / l2 * center`` plus the sum over the
    examples, with the larger l2.

    Momentum begins again where it has led away from the optimum (O'Donoghue and Candes, 2015).
    Rounds are not exact. Where they are too far from that for momentum, which threads that know
    little of each other make worse, the objective rises above the least one since it did so last:
    then the pull is doubled, with which a round comes nearer to its optimum.

    Args:
        trainer: before the first round.
        anchor: of its weights.
        settings: the step's, with the penalty.
        pull: how strong it is at first, above 0.
        columns: that are penalized, which it is on; bool of shape (columns,).

    Attributes:
        pull: how strong it is.
        center: float64 of shape (columns,).
    """

    def __init__(
        self,
        trainer: _core.LinearTrainer,
        anchor: Anchor,
        settings: Settings,
        pull: float,
        columns: npt.NDArray[np.bool_],
    ) -> None:
        self._trainer, self._anchor = trainer, anchor
        self._settings, self._columns = settings, columns
        self._a = 1.0  # theory's alpha
        self._least = math.inf
        self.pull = pull
        self._last = self.center = anchor.weights
        if len(trainer.sums):
            trainer.sums[:] -= np.where(columns, pull * (self.center - anchor.at), 0)

    @property
    def l2(self) -> float:
        """The penalty of the round."""
        return self._settings.l2 + self.pull

    def next_round(self, loss: float) -> None:
        """Move the center, and the weights as much nearer to the round's end.

        Args:
            loss: the mean one, in the last pass.
        """
        trainer, anchor = self._trainer, self._anchor
        weights = anchor.weights
        step = np.where(self._columns, weights - self._last, 0)
        rose = self._rose(weights, loss)
        l2, pull = self.l2, self.pull
        if rose:
            self.pull *= 2
        if rose or np.dot(self.center - weights, step) > 0:
            self._a, ahead = 1.0, 0.0
        else:
            square, q = self._a**2, self._settings.l2 / self.l2
            a = (q - square + math.sqrt((q - square) ** 2 + 4 * square)) / 2
            ahead = self._a * (1 - self._a) / (square + a)
            self._a = a
        center = weights + ahead * step
        moved = self.pull * (center - anchor.at) - pull * (self.center - anchor.at)
        moved = np.where(self._columns, moved, 0)
        nearer = (l2 * (weights - anchor.at) + moved) / self.l2
        trainer.weights[:] = np.where(self._columns, nearer, trainer.weights)
        if len(trainer.sums):
            trainer.sums[:] -= moved
        self._last, self.center = weights, center

    def _rose(self, weights: npt.NDArray[np.float64], loss: float) -> bool:
        penalized = weights[self._columns]
        squares, sizes = float(np.dot(penalized, penalized)), float(np.abs(penalized).sum())
        objective = loss + self._settings.l2 / 2 * squares + self._settings.l1 * sizes
        rose = objective > (1 + RISE) * self._least
        self._least = objective if rose else min(self._least, objective)
        return rose
