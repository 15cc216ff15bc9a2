"""Settings of linear models: learning rates, solvers, penalties, and which go together."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from asyncopt import _core
from asyncopt._checks import one_of, real
from asyncopt.sparse.custom_loss import CustomLoss

__all__ = [
    "LEARNING_RATES",
    "PENALTIES",
    "SOLVERS",
    "Settings",
    "check_solver",
    "syncs",
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
        """Settings from an estimator's parameters, which were checked."""
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
    """Raise ValueError unless an estimator's solver supports its other parameters.

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
        one_of("loss", estimator.loss, [x for x in defined if x in estimator._loss_names], named)
    if estimator.nesterov and estimator.loss == "hinge":
        smooth = [loss for loss, step, _ in _core.linear_kernels() if step == "saga"]
        one_of(
            "loss", "hinge", [x for x in smooth if x in estimator._loss_names], "with nesterov=True"
        )
    if solver == "dual":
        one_of("warm_start", estimator.warm_start, (False,), named)
        one_of("penalty", estimator.penalty, ("l2",), named)
        real("alpha", estimator.alpha, 0, open_=True)
