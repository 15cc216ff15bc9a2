"""Losses of linear models: built in, or compiled by numba from the user's functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt._checks import one_of, real
from asyncopt._install import command

__all__ = ["CustomLoss", "check_loss", "engine_loss", "losses"]

_Array = npt.NDArray[np.float64]


class _Compiled(NamedTuple):
    entry: Any
    """Its ``address`` is a C function ``void (double, double, double *)``."""
    evaluate: Callable[[_Array, _Array], tuple[_Array, _Array]]
    """The values and derivatives of arrays of predictions and targets."""


@dataclass(frozen=True)
class CustomLoss:
    """A loss for `LinearRegressor` and `LinearClassifier`, written in Python and compiled by numba.

    The threads call the compiled function in the same loop as the built-in losses, once for each
    example and without the GIL.

    Two losses of the same functions are equal. A loss can be pickled if its functions can: if they
    are defined in a module, or compiled with ``numba.njit``.

    Args:
        function: ``function(prediction, target)`` returns the pair of the loss and its derivative
            with respect to the prediction or, with ``derivative``, only the loss. The arguments are
            floats (in classification the target is -1 or 1). It may use all that numba compiles
            (numbers, ``math``, ``numpy``), and is plain or compiled with ``numba.njit``. A plain
            function is compiled so that division by 0 follows numpy.
        derivative: ``derivative(prediction, target)``.
        curvature: approximate maximum of the second derivative; 1 for a loss with a kink. Smaller
            values give longer intervals between merges (``sync="replicated"``) of weights that all
            threads change, and larger steps of ``solver="saga"`` and ``"svrg"``, which need a true
            upper bound and no kink.
        check: compare the derivative with differences of the loss at some predictions between -5
            and 5, for the targets -1, 0, 1 and 2, wherever the loss is finite.

    Raises:
        ImportError: numba is not installed: ``pip install 'asyncopt[numba]'``.
        TypeError: numba cannot compile a function, or a function returns another type.
        ValueError: the curvature is not above 0, or the derivative does not match the loss.
    """

    function: Callable[[float, float], Any]
    derivative: Callable[[float, float], Any] | None = None
    curvature: float = 1.0
    check: bool = True
    _compiled: _Compiled = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        real("curvature", self.curvature, 0, open_=True)
        object.__setattr__(self, "_compiled", _compile(self.function, self.derivative))
        if self.check:
            _check_derivative(self._compiled)

    def mean(self, predictions: Any, targets: Any, weights: Any = None) -> float:
        """The mean loss of examples, in float64.

        Args:
            predictions: shape (examples,).
            targets: likewise.
            weights: of the examples, likewise; None: all 1.

        Raises:
            ValueError: they are not of one shape.
        """
        given = {"predictions": predictions, "targets": targets}
        if weights is not None:
            given["weights"] = weights
        arrays = {name: _floats(array) for name, array in given.items()}
        for name, array in arrays.items():
            if array.shape != (len(arrays["predictions"]),):
                raise ValueError(
                    f"{name}: expected shape ({len(arrays['predictions'])},), got {array.shape}"
                )
        values, _ = self._compiled.evaluate(arrays["predictions"], arrays["targets"])
        return float(np.average(values, weights=arrays.get("weights")))

    def __repr__(self) -> str:
        """Names of its functions, without addresses, so that all processes agree."""
        functions = [self.function, *([] if self.derivative is None else [self.derivative])]
        names = [getattr(each, "__qualname__", repr(each)) for each in functions]
        return f"CustomLoss({', '.join([*names, f'curvature={self.curvature:g}'])})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # immutable; a copy, as in scikit-learn's clone, would be compiled again

    def __reduce__(self) -> tuple[Any, ...]:
        return CustomLoss, (self.function, self.derivative, self.curvature, self.check)


@functools.cache
def losses() -> dict[str, float]:
    """Every built-in loss, with an upper bound of its second derivative."""
    kernels = _core.linear_kernels()
    return {loss: curvature for loss, _, curvature in kernels if loss != "custom"}


def check_loss(loss: Any, known: tuple[str, ...]) -> None:
    """Raise ValueError unless a loss is one of the known names, or a `CustomLoss`."""
    if isinstance(loss, CustomLoss):
        return
    if callable(loss):
        raise ValueError(f"loss: expected a name or a CustomLoss, got {loss!r}; use CustomLoss(it)")
    one_of("loss", loss, known)


def engine_loss(loss: str | CustomLoss) -> tuple[str, float, int]:
    """Name of a loss in the engine, its curvature, and its address (0 if built in).

    The address is valid while the loss exists.
    """
    if isinstance(loss, CustomLoss):
        return "custom", loss.curvature, loss._compiled.entry.address
    return loss, losses()[loss], 0


@functools.lru_cache(maxsize=64)
def _compile(function: Callable[..., Any], derivative: Callable[..., Any] | None) -> _Compiled:
    try:
        import numba
    except ImportError as error:
        raise ImportError(
            f"CustomLoss: expected numba, got: {error}; run: {command('numba')}"
        ) from error
    from numba import types

    nan = np.nan
    jit = numba.njit(error_model="numpy")
    loss = _jitted("loss", function, pair=derivative is None)
    # C callers cannot receive an exception, so it becomes NaN, which the engine detects.
    if derivative is None:

        @jit
        def at(prediction: float, target: float) -> tuple[float, float]:
            try:
                value, slope = loss(prediction, target)
            except Exception:
                value, slope = nan, nan
            return float(value), float(slope)

    else:
        slope_of = _jitted("derivative", derivative, pair=False)

        @jit
        def at(prediction: float, target: float) -> tuple[float, float]:
            try:
                value, slope = loss(prediction, target), slope_of(prediction, target)
            except Exception:
                value, slope = nan, nan
            return float(value), float(slope)

    @numba.cfunc(types.void(types.float64, types.float64, types.CPointer(types.float64)))
    def entry(prediction: float, target: float, value_and_derivative: Any) -> None:
        value_and_derivative[0], value_and_derivative[1] = at(prediction, target)

    @jit
    def evaluate(predictions: _Array, targets: _Array) -> tuple[_Array, _Array]:
        values, slopes = np.empty(len(predictions)), np.empty(len(predictions))
        for i in range(len(predictions)):
            values[i], slopes[i] = at(predictions[i], targets[i])
        return values, slopes

    return _Compiled(entry, evaluate)


def _jitted(name: str, function: Callable[..., Any], pair: bool) -> Any:
    """The function compiled, for two floats; returns a pair of numbers, or a number."""
    import numba
    from numba import types
    from numba.core.errors import NumbaError
    from numba.extending import is_jitted

    if not callable(function):
        raise TypeError(f"{name}: expected a function of (prediction, target), got {function!r}")
    try:
        jitted = function if is_jitted(function) else numba.njit(error_model="numpy")(function)
        probe = numba.njit(lambda prediction, target: jitted(prediction, target))
        probe.compile((types.float64, types.float64))
    except (NumbaError, TypeError) as error:
        raise TypeError(
            f"{name}: expected a function of (prediction, target) that numba compiles, got "
            f"{function!r}: {error}"
        ) from error
    (signature,) = probe.nopython_signatures
    result = signature.return_type
    numbers = getattr(result, "types", [result])  # a tuple's
    if len(numbers) != 1 + pair or not all(
        isinstance(each, (types.Integer, types.Float, types.Boolean)) for each in numbers
    ):
        expected = "the pair (value, derivative)" if pair else "a number"
        remedy = "; or pass derivative=" if pair else ""
        raise TypeError(
            f"{name}: expected a function that returns {expected}, got {result}{remedy}"
        )
    return jitted


def _check_derivative(compiled: _Compiled) -> None:
    """Raise ValueError if the derivative is not between the slopes to either side.

    At a kink, any subgradient passes. Steps of 1e-3 suit functions that compute in float32.
    """
    step = 1e-3
    grid, given = np.linspace(-5, 5, 41) + 0.0123, [-1.0, 0.0, 1.0, 2.0]
    predictions, targets = np.tile(grid, len(given)), np.repeat(given, len(grid))
    values, slopes = compiled.evaluate(predictions, targets)
    below, above = (compiled.evaluate(predictions + d, targets)[0] for d in (-step, step))
    left, right = (values - below) / step, (above - values) / step
    finite = np.isfinite(left + right)
    if not finite.any():
        raise ValueError(
            "loss: expected finite values at predictions from -5 to 5 for some of the targets -1, "
            "0, 1 and 2, got none (an exception counts as nan); correct it, or pass check=False"
        )
    slack = 1e-3 * (1 + np.abs(left)) + 1e-4 * np.abs(values)
    near = (slopes >= np.minimum(left, right) - slack) & (slopes <= np.maximum(left, right) + slack)
    if (wrong := np.flatnonzero(finite & ~near)).size:
        first = wrong[np.abs(predictions[wrong]).argmin()]
        raise ValueError(
            f"derivative: expected about {(left[first] + right[first]) / 2:.4g}, the slope of the "
            f"loss at prediction {predictions[first]:.4g}, target {targets[first]:g}; "
            f"got {slopes[first]:.4g}; correct it, or pass check=False"
        )


def _floats(array: Any) -> _Array:
    return np.ascontiguousarray(array, np.float64)
