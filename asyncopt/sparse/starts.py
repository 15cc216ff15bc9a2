"""The weights that a linear model starts from: ``coef_init`` and ``intercept_init``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt.sparse.matrices import narrow

__all__ = ["check_start"]


def check_start(
    estimator: Any,
    outputs: int,
    features: int,
    coef_init: Any,
    intercept_init: Any,
    afresh: bool,
) -> npt.NDArray[np.float32] | None:
    """The weights that a fit starts from, of ``coef_init`` and ``intercept_init``.

    Args:
        estimator: with checked parameters.
        outputs: models that are trained.
        features: columns of the examples.
        coef_init: numbers of shape (outputs, features) or, for one output, (features,).
        intercept_init: numbers of shape (outputs,) or, for one output, ().
        afresh: the one of them that is None starts as zeros, else as the last call left it.

    Returns:
        Float32 of shape (outputs, features, and 1 if there is an intercept); None if neither is
        given.

    Raises:
        ValueError: a shape or number is wrong, or the solver cannot start from weights.
    """
    if coef_init is None and intercept_init is None:
        return None
    if estimator.solver == "dual":
        name = "intercept_init" if coef_init is None else "coef_init"
        raise ValueError(
            f"{name}: expected None with solver='dual', whose weights follow from a number for "
            "each example; take another solver"
        )
    if intercept_init is not None and not estimator.fit_intercept:
        raise ValueError(
            "intercept_init: expected None with fit_intercept=False, got "
            f"{intercept_init!r}; set fit_intercept=True"
        )
    start = np.zeros((outputs, features + bool(estimator.fit_intercept)), np.float32)
    if not afresh:
        start[:] = [state.coefficients for state in estimator._states]
    one = outputs == 1
    if coef_init is not None:
        shapes = [(outputs, features), *([(features,)] if one else [])]
        start[:, :features] = _numbers("coef_init", coef_init, shapes)
    if intercept_init is not None:
        shapes = [(outputs,), *([()] if one else [])]
        start[:, features] = _numbers("intercept_init", intercept_init, shapes)
    return start


def _numbers(name: str, given: Any, shapes: list[tuple[int, ...]]) -> npt.NDArray[np.float32]:
    try:
        numbers = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array of numbers, got: {error}") from error
    if numbers.dtype.kind not in "biuf" or numbers.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(
            f"{name}: expected numbers of shape {expected}, got {numbers.dtype} of shape "
            f"{numbers.shape}"
        )
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return narrow(name, numbers)
