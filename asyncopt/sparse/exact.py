"""The solvers that end at the optimum, between their passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt.sparse.anchor import Anchor
from asyncopt.sparse.momentum import PULLS, Momentum
from asyncopt.sparse.settings import Settings

__all__ = ["Exact"]

PASSES_PER_SNAPSHOT = 2
"""Of ``"svrg"``, besides the one that takes it: Johnson and Zhang's choice for convex losses."""
BESIDE = 0.1
"""What is left of a step along the gradient in one of the dual, which knows the columns beside.
With 0 four threads diverged on dense rows; with 1 two took 1.4 times one's passes on text."""
PASSES_PER_ANCHOR, STEPS_PER_ANCHOR = {"dual": 64, "saga": 16}, 2**23
"""From one anchor to the next, at most. One costs half a pass of SAGA and up to 1.6 of the dual,
whose sums drift less. Float32 counts to 2 ** 24."""
PATIENCE = 8
"""Weights at rest but not at the optimum are checked again after this share of all passes."""


class Exact:
    """Rates, anchors, snapshots and momentum of one fit.

    Args:
        trainer: with its first weights.
        settings: with the penalty.
        examples: as of `Anchor`.
        steep: curvature of an example's loss: the largest, or the dual's mean one.
        penalized: the columns that the penalty is on; bool of shape (columns,).
    """

    def __init__(
        self,
        trainer: _core.LinearTrainer,
        settings: Settings,
        examples: dict[str, Any],
        steep: float,
        penalized: npt.NDArray[np.bool_],
    ) -> None:
        self._settings, self._trainer = settings, trainer
        self._rows = len(examples["targets"])
        if settings.l1 or settings.l2:  # no example touches these
            unused = penalized.copy()
            unused[examples["columns"][: examples["begin"][-1]]] = False
            trainer.weights[unused] = 0
        self._anchor = Anchor(trainer, settings, examples, penalized)
        self._momentum: Momentum | None = None
        pull = PULLS[settings.step] * steep / max(self._rows, 1) - settings.l2
        if settings.nesterov and pull > 0:
            self._momentum = Momentum(trainer, self._anchor, settings, pull, penalized)
        self._rate = self._rate_of(steep)
        self._anchored = self._gauged = 0  # in which pass
        self._at_zero: float | None = None

    def _rate_of(self, steep: float) -> float:
        """The learning rate of SAGA and SVRG.

        The dual has none. By this it sees how far others go meanwhile (strides: copies.h).
        """
        if self._settings.step == "dual":
            return BESIDE / (steep + self._l2 * self._rows)
        return 1 / (3 * steep)

    @property
    def _l2(self) -> float:
        return self._settings.l2 if self._momentum is None else self._momentum.l2

    @property
    def settings(self) -> Settings:
        """The next pass's."""
        return self._settings._replace(eta0=self._rate, decay=0.0, l2=self._l2)

    @property
    def arguments(self) -> dict[str, Any]:
        """The engine's for a pass."""
        return self._anchor.arguments

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """The current weights, float64 of shape (columns,)."""
        return self._anchor.weights

    def begin(self, done: int, loss: float) -> bool:
        """Prepare a pass; True if it was an SVRG snapshot, which is then complete.

        Args:
            done: passes up to now.
            loss: the mean one, in the last of them.
        """
        svrg = self._settings.step == "svrg"
        begins = not svrg or done % (1 + PASSES_PER_SNAPSHOT) == 0
        if begins and done > 0 and self._momentum is not None:
            self._momentum.next_round(loss)
        if svrg:
            if begins:
                self._take(done)
            return begins
        since = done - self._anchored
        if since >= PASSES_PER_ANCHOR[self._settings.step] or since * self._rows > STEPS_PER_ANCHOR:
            self._take(done)
        return False

    def at_optimum(self, tol: float, done: int, last: bool) -> bool:
        """True if the objective is within a share of ``tol`` of the minimum.

        Args:
            tol: for objectives near 0, as without a penalty, ``tol ** 2`` times the loss with all
                predictions 0 is allowed.
            done: passes so far.
            last: True if this is the last call; then always check.
        """
        if not last and done - self._gauged < done // PATIENCE:
            return False
        self._gauged = done
        self._take(done)
        objective, gap = self._anchor.gauged()
        if gap <= tol * objective:
            return True
        if self._at_zero is None:
            self._at_zero = self._anchor.loss_at_zero()
        return gap <= tol**2 * self._at_zero

    def _take(self, done: int) -> None:
        self._anchored = done
        momentum = self._momentum
        if momentum is None:
            self._anchor.take(0.0, 0.0)
        else:
            self._anchor.take(momentum.pull, momentum.center)
