"""Float64 state of the solvers that end at the optimum, whose steps are taken in float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt.sparse.settings import Settings

__all__ = ["Anchor", "Gauged"]

_Array = npt.NDArray[np.float64]


class Gauged(NamedTuple):
    """Distance of an anchor from the optimum, in float64.

    Attributes:
        objective: mean loss plus penalty.
        gap: upper bound of its excess over the minimum: `Anchor.gauged`.
    """

    objective: float
    gap: float


class Anchor:
    """Weights in float64, from which the engine steps on float32 differences (``gauge.h``).

    Pure float32 stalls when steps fall below half a unit in the last place of the weights, and when
    small changes of SAGA's mean gradient are rounded off. Differences from an anchor that is
    updated periodically have neither limit (iterative refinement).

    Args:
        trainer: the trainer with its initial weights; the first anchor is 0.
        settings: settings of the steps, with the penalty.
        examples: the engine's arguments ``begin``, ``columns``, ``values``, ``targets`` and
            ``weights``.
        penalized: the columns that the penalty is on; bool of shape (columns,).

    Attributes:
        arguments: the engine's for a pass: ``notes``, ``anchors`` and ``base``.
        at: its weights, float64 of shape (columns,).
    """

    def __init__(
        self,
        trainer: _core.LinearTrainer,
        settings: Settings,
        examples: dict[str, Any],
        penalized: npt.NDArray[np.bool_],
    ) -> None:
        rows, columns = len(examples["targets"]), len(trainer.weights)
        self._trainer, self._settings = trainer, settings
        self._examples, self._penalized = examples, penalized
        self._notes = np.zeros((rows, trainer.notes), np.float32)
        self._anchors = np.zeros((rows, 2))
        self._base = np.zeros(columns, np.float32)
        self._derivatives, self._gradient = np.empty(rows), np.empty(columns)
        self._free = np.flatnonzero(~penalized)
        self._loss = 0.0
        self.at: _Array = np.zeros(columns)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arrays that the engine reads and writes, the same in every pass."""
        return {
            "notes": self._notes.reshape(-1),
            "anchors": self._anchors,
            "base": self._base if self._settings.l1 else None,
        }

    @property
    def weights(self) -> _Array:
        """The current weights, float64 of shape (columns,)."""
        differences = self._trainer.weights
        weights: _Array = self.at + differences
        if self._settings.l1:
            weights[differences == -self._base] = 0  # corrected.h
        return weights

    def take(self, pull: float, center: _Array | float) -> None:
        """Move the anchor to the solver's current weights.

        Args:
            pull: strength of momentum's pull, 0 without: `asyncopt.sparse.momentum`.
            center: center of the pull, float64 of shape (columns,).

        Raises:
            ValueError: a custom loss is not finite.
        """
        settings, trainer = self._settings, self._trainer
        dual = settings.step == "dual"
        if dual:
            self._anchors[:, 1] += self._notes[:, 0]
            self.at = self._of_numbers(pull, center)
            self._notes[:, 0] = 0
        else:
            self.at = self.weights
        self._loss = self._gauge(self.at)
        if not dual:
            self._anchors[:, 1] = self._derivatives
            self._notes[:] = 0
            self._base[:] = self.at
            slope = settings.l2 * self.at
            if settings.l1:
                slope += settings.l1 * np.sign(self._base)
            if pull:
                slope += pull * (self.at - center)
            slope[self._free] = 0
            np.add(self._gradient, slope, out=trainer.sums, casting="same_kind")
        trainer.weights[:] = 0

    def gauged(self) -> Gauged:
        """Compare the anchor with the optimum.

        It is the duality gap with the derivatives as dual variables, which needs no conjugate of
        the loss: ``l2 / 2 * |gradient of the objective / l2| ** 2`` for the l2 penalty. For columns
        that the penalty does not bound, such as an intercept, the gradient times the largest weight
        is used as an estimate.
        """
        return Gauged(self._loss + self._penalty(), self._gap())

    def loss_at_zero(self) -> float:
        """The mean loss if all predictions are 0."""
        anchors, zeros = np.empty_like(self._anchors), np.zeros_like(self.at)
        return self._gauge(zeros, anchors) if len(anchors) else 0.0

    def _gauge(self, at: _Array, anchors: _Array | None = None) -> float:
        """Compute the mean loss, derivatives and mean gradient at the weights ``at``."""
        rows = len(self._anchors)
        losses = self._trainer.gauge(
            **self._examples,
            numbers=[*self._settings.of_step, rows],
            at=at,
            anchors=self._anchors if anchors is None else anchors,
            derivatives=self._derivatives,
            gradient=self._gradient,
        )
        self._gradient /= rows
        return losses / rows

    def _of_numbers(self, pull: float, center: _Array | float) -> _Array:
        """The weights given by the dual variables and momentum's center."""
        numbers = np.ascontiguousarray(self._anchors[:, 1])
        total, examples = np.empty_like(self.at), self._examples
        _core.add_rows(examples["begin"], examples["columns"], examples["values"], numbers, total)
        weights: _Array = (pull * center + total / len(numbers)) / (self._settings.l2 + pull)
        return weights

    def _penalty(self) -> float:
        weights, settings = self.at[self._penalized], self._settings
        squares, sizes = float(np.dot(weights, weights)), float(np.abs(weights).sum())
        return settings.l2 / 2 * squares + settings.l1 * sizes

    def _gap(self) -> float:
        if self._settings.loss == "hinge":
            return self._hinge_gap()
        l1 = np.where(self._penalized, self._settings.l1, 0.0)
        l2 = np.where(self._penalized, self._settings.l2, 0.0)
        weights, sizes, pulled = self.at, np.abs(self.at), -self._gradient
        beyond = np.maximum(np.abs(pulled) - l1, 0)  # the l2 penalty's slope at the dual's weights
        aligned = (np.sign(pulled) == np.sign(weights)) & (beyond > 0)
        slope = np.where(aligned, beyond - l2 * sizes, beyond)
        bounded = l2 > 0
        safe = np.where(bounded, l2, 1)
        apart = l1 * sizes + l2 / 2 * sizes**2 - pulled * weights + beyond**2 / (2 * safe)
        exact = np.where(aligned, slope**2 / (2 * safe), apart)
        reach = float(sizes.max(initial=0)) or np.inf
        held = np.where(weights == 0, beyond, np.abs(l1 * np.sign(weights) + l2 * weights - pulled))
        estimate = np.where(held == 0, 0, reach * np.where(held == 0, 1, held))
        return float(np.where(bounded, exact, estimate).sum())

    def _hinge_gap(self) -> float:
        """Duality gap of the hinge, computed from the dual variables: its derivative jumps."""
        targets, weights = self._examples["targets"], self._examples["weights"]
        slack = 1 - targets * self._anchors[:, 0]
        beta = targets * self._anchors[:, 1]
        most = 1 if weights is None else weights
        return float(np.mean(most * np.maximum(slack, 0) - beta * slack))
