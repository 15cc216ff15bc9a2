"""A linear model's numbers between calls of training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt.sparse.examples import Examples
from asyncopt.sparse.settings import Settings

__all__ = ["State"]

_Floats = npt.NDArray[np.float32]


class State:
    """State of a trained model.

    Attributes:
        weights: float64 of shape (features + 1,); the intercept's is the last.
        squares: AdaGrad's and FTRL's sums, float32 of that shape; not used by other steps.
        sums: the engine's for the mean of the weights or for FTRL, likewise.
        averaged: examples that the mean is of.
        leaders: models that FTRL's examples went to, whose weights follow from their sums; 0: the
            weights are another step's.
        t: examples seen.
    """

    def __init__(self, columns: int) -> None:
        self.weights: npt.NDArray[np.float64] = np.zeros(columns)
        self.squares: _Floats = np.zeros(columns, np.float32)
        self.sums: _Floats = np.zeros(columns, np.float32)
        self.averaged = 0
        self.leaders = 0
        self.t = 0

    def begin(self, weights: _Floats, settings: Settings) -> None:
        """Start a model that was not trained yet from these weights instead of zeros."""
        self.weights[:] = weights
        if settings.step == "ftrl":  # its weights follow from the sums: `Ftrl::weight`, steps.h
            self.sums[:] = -weights / settings.eta0

    @property
    def coefficients(self) -> npt.NDArray[np.float64]:
        """The weights to predict with: their mean, if there is one."""
        return self.weights - self.sums / self.averaged if self.averaged else self.weights

    @property
    def finite(self) -> bool:
        """True if all its numbers are finite."""
        return all(np.isfinite(each).all() for each in (self.weights, self.squares, self.sums))

    def load(self, trainer: _core.LinearTrainer, examples: Examples) -> None:
        """Copy the examples' columns to the engine; units are 1 if it has squares."""
        for name in ("weights", "squares", "sums"):
            if len(kept := getattr(trainer, name)):
                kept[:] = getattr(self, name)[examples.columns_by_frequency] / examples.units

    def save(
        self,
        trainer: _core.LinearTrainer,
        examples: Examples,
        exact: npt.NDArray[np.float64] | None,
    ) -> None:
        """Copy the examples' columns back from the engine; ``exact``: weights in float64."""
        for name in ("weights", "squares", "sums"):
            kept = getattr(trainer, name)
            if name == "weights" and exact is not None:
                kept = exact
            if len(kept):
                getattr(self, name)[examples.columns_by_frequency] = kept * examples.units
