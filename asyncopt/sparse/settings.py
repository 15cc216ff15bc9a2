"""What the compiled linear models can do, and checks of what is asked of them."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from asyncopt import _core

if TYPE_CHECKING:
    from asyncopt.sparse.custom_loss import CustomLoss

__all__ = [
    "LEARNING_RATES",
    "PENALTIES",
    "SOLVERS",
    "Settings",
    "check_solver",
    "flag",
    "losses",
    "one_of",
    "real",
    "real_or_none",
    "syncs",
    "whole",
]

SOLVERS = ("sgd", "dual", "saga", "svrg")
PENALTIES = ("l2", "l1", "elasticnet", None)
LEARNING_RATES = {
    "constant": "scaled",
    "optimal": "scaled",
    "invscaling": "scaled",
    "adaptive": "scaled",
    "inverse": "scaled",
    "adagrad": "adagrad",
    "ftrl": "ftrl",
}
"""The compiled step of each."""


@functools.cache
def losses() -> dict[str, float]:
    """Every loss that is built in, with an upper bound of its second derivative."""
    kernels = _core.linear_kernels()
    return {loss: curvature for loss, _, curvature in kernels if loss != "custom"}


@functools.cache
def syncs() -> tuple[str, ...]:
    """Names of the ways in which the threads of a linear model share its weights."""
    return _core.linear_syncs()


class Settings(NamedTuple):
    """The numbers of a step.

    The learning rate of example t is ``eta0 / (1 + decay * t) ** power``. `train` finds those of
    the steps other than ``"sgd"``'s.
    """

    loss: str | CustomLoss
    step: str
    eta0: float
    decay: float
    l1: float
    l2: float
    epsilon: float
    power: float = 1.0
    divides: bool = False
    """True: where passes make no progress, divide the learning rate instead of ending."""
    nesterov: bool = False
    average: int = 0
    """The example with which the mean of the weights begins; 0: they are not averaged."""

    @property
    def of_step(self) -> tuple[float, ...]:
        """The numbers, in the engine's order."""
        return self.eta0, self.decay, self.l1, self.l2, self.epsilon, self.power

    @classmethod
    def of(cls, estimator: Any) -> Settings:
        """Those that an estimator's parameters mean, which were checked."""
        l1_ratio = {"l1": 1.0, "l2": 0.0, None: 0.0}.get(estimator.penalty, estimator.l1_ratio)
        alpha = 0.0 if estimator.penalty is None else estimator.alpha
        eta0, decay, power = _schedule(estimator, alpha)
        return cls(
            loss=estimator.loss,
            step=_step(estimator.solver, estimator.learning_rate, bool(estimator.average)),
            eta0=eta0,
            decay=decay,
            l1=alpha * l1_ratio,
            l2=alpha * (1 - l1_ratio),
            epsilon=getattr(estimator, "epsilon", 0.0),
            power=power,
            divides=estimator.solver == "sgd" and estimator.learning_rate == "adaptive",
            nesterov=bool(estimator.nesterov),
            average=int(estimator.average),
        )


def _schedule(estimator: Any, alpha: float) -> tuple[float, float, float]:
    """The numbers ``eta0``, ``decay`` and ``power`` of a learning rate."""
    if estimator.learning_rate == "inverse":
        return estimator.eta0, alpha * estimator.eta0, 1.0
    if estimator.learning_rate == "invscaling":
        return estimator.eta0, 1.0, estimator.power_t
    if estimator.learning_rate == "optimal" and estimator.solver == "sgd":
        first = estimator.alpha**-0.25  # scikit-learn's typical weight, after Bottou
        return first, estimator.alpha * first, 1.0
    return estimator.eta0, 0.0, 1.0


def _step(solver: str, learning_rate: str, average: bool) -> str:
    if solver != "sgd":
        return solver
    return ("averaged_" if average else "") + LEARNING_RATES[learning_rate]


def check_solver(estimator: Any) -> None:
    """Raises ValueError unless an estimator's solver can do what the other parameters ask.

    Each of these is one that is known.
    """
    solver = estimator.solver
    named = f"with solver={solver!r}"
    if solver == "sgd":
        one_of("nesterov", bool(estimator.nesterov), (False,), named)
        if estimator.learning_rate == "optimal" and estimator.alpha == 0:
            raise ValueError(
                "alpha: expected a number above 0 with learning_rate='optimal', which is computed "
                "from it, got 0; take another learning_rate"
            )
        return
    one_of("average", bool(estimator.average), (False,), named)
    defined = [loss for loss, step, _ in _core.linear_kernels() if step == solver]
    if isinstance(estimator.loss, str) or "custom" not in defined:
        one_of("loss", estimator.loss, [x for x in defined if x in estimator._losses], named)
    if estimator.nesterov and estimator.loss == "hinge":
        smooth = [loss for loss, step, _ in _core.linear_kernels() if step == "saga"]
        one_of("loss", "hinge", [x for x in smooth if x in estimator._losses], "with nesterov=True")
    if solver == "dual":
        one_of("warm_start", estimator.warm_start, (False,), named)
        one_of("penalty", estimator.penalty, ("l2",), named)
        real("alpha", estimator.alpha, 0, open_=True)


def one_of(name: str, value: object, known: Sequence[object], where: str = "") -> None:
    """Raises ValueError unless an argument is one of those known."""
    if not any(value is each or (isinstance(value, str) and value == each) for each in known):
        names = ", ".join(repr(each) for each in known)
        expected = f"one of {names}" if len(known) > 1 else names
        place = f" {where}" if where else ""
        raise ValueError(f"{name}: expected {expected}{place}; got {value!r}")


def real(name: str, value: Any, low: float, high: float = math.inf, open_: bool = False) -> None:
    """Raises ValueError unless an argument is a number in [low, high], or above low if open."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not low <= value <= high or math.isinf(value) or (open_ and value == low):
        begin = f"above {low:g}" if open_ else f"of at least {low:g}"
        end = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name}: expected a finite number {begin}{end}, got {value!r}")


def real_or_none(
    name: str, value: Any, low: float, high: float = math.inf, open_: bool = False
) -> None:
    """Raises ValueError unless an argument is None or as `real` requires."""
    if value is not None:
        real(name, value, low, high, open_)


def flag(name: str, value: Any) -> None:
    """Raises ValueError unless an argument is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected True or False, got {value!r}")


def whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises ValueError unless an argument is an integer of at least ``low``, at most ``high``."""
    number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not number or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}: expected an integer {bounds}, got {value!r}")
