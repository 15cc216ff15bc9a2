"""The matrix: every compiled kernel under every sync, drawn from the lists that the build exports.

A case is a class of `asyncopt.rules()` with options that choose one of its compiled rules. The
reference is the namesake in torch.optim in float64, given the same (rounded) numbers.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt import _core

#: Options that choose between the compiled rules of one class. `tests/test_lists.py` fails if a
#: compiled rule is reached by none of them.
SWITCHES: dict[str, Any] = {"momentum": 0.9, "amsgrad": True, "centered": True}

#: Given to every class that takes them, so that their effect shows within a few steps.
COMMON: dict[str, Any] = {"weight_decay": 0.1, "lambd": 0.01, "t0": 5}

SYNCS = asyncopt.syncs()
REPLICAS = tuple(c["name"] for c in _core.syncs() if c["replica"])
DTYPES = tuple(dict.fromkeys((k["param_dtype"], k["state_dtype"]) for k in _core.kernels()))

#: Empty, around the lane counts of every instruction set, several vectors and a bit, a matrix, and
#: a matrix whose elements lie in another order; the last two have a gradient in every other step.
SHAPES = ((0,), (1,), (15,), (16,), (17,), (49,), (7, 7), (9, 4))

STEPS = 20


@dataclass(frozen=True)
class Case:
    """A class and the options that choose one of its compiled rules."""

    rule: str
    switches: tuple[tuple[str, Any], ...]

    @property
    def options(self) -> dict[str, Any]:
        """Constructor options, for torch's class and ours."""
        known = inspect.signature(getattr(torch.optim, self.rule)).parameters
        # Steps large enough that 20 of them stand out of bfloat16's rounding.
        default = known["lr"].default
        options = {"lr": 0.05 if default < 1 else 20 * default}
        options |= {name: value for name, value in COMMON.items() if name in known}
        return options | dict(self.switches)

    def ours(self, params: Any, **extra: Any) -> Any:
        """An asyncopt optimizer."""
        return getattr(asyncopt, self.rule)(params, **self.options, **extra)

    def theirs(self, params: Any) -> Any:
        """The torch optimizer."""
        return getattr(torch.optim, self.rule)(params, **self.options)

    def __str__(self) -> str:
        return "-".join([self.rule, *(name for name, _ in self.switches)])


def _cases() -> Iterator[Case]:
    for rule in asyncopt.rules():
        known = inspect.signature(getattr(torch.optim, rule)).parameters
        own = [(name, value) for name, value in SWITCHES.items() if name in known]
        for count in range(len(own) + 1):
            for chosen in itertools.combinations(own, count):
                yield Case(rule, chosen)


CASES = tuple(_cases())


def dtype_of(name: str) -> torch.dtype:
    """A dtype by the name that the build gives it."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def initial(dtype: torch.dtype, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    """Values near 1 with two signs, exact in `dtype`; the last matrix is stored by columns."""
    generator = torch.Generator().manual_seed(1)
    values = []
    for shape in shapes:
        value = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        value *= torch.randint(0, 2, shape, generator=generator) * 2 - 1
        values.append(value.to(dtype))
    if len(shapes[-1]) == 2:
        values[-1] = values[-1].t().contiguous().t()
    return values


@functools.cache
def gradients(
    step: int, dtype: torch.dtype, shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> list[Tensor | None]:
    """Gradients of a step, never zero, mostly positive, exact in `dtype`."""
    generator = torch.Generator().manual_seed(100 + step)
    found: list[Tensor | None] = []
    for i, shape in enumerate(shapes):
        g = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3 + 1
        absent = step % 2 == 1 and i >= len(shapes) - 2 > 0
        found.append(None if absent else g.to(dtype))
    return found


def set_gradients(params: Iterable[Tensor], values: Iterable[Tensor | None]) -> None:
    """Gives each parameter its gradient, in its own dtype and memory order."""
    for param, value in zip(params, values, strict=True):
        param.grad = None if value is None else torch.empty_like(param).copy_(value)


def train(optimizer: Any, dtype: torch.dtype, steps: int = STEPS) -> None:
    """Steps with the gradients of `gradients`."""
    params = params_of(optimizer)
    shapes = tuple(tuple(p.shape) for p in params)
    for step in range(steps):
        set_gradients(params, gradients(step, dtype, shapes))
        optimizer.step()


def params_of(optimizer: Any) -> list[Tensor]:
    """All parameters, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


@functools.cache
def reference(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], dict[int, dict[str, Any]]]:
    """Parameters and state after 20 steps of torch in float64."""
    params = [Parameter(v.double()) for v in initial(dtype)]
    optimizer = case.theirs(params)
    train(optimizer, dtype)
    return [p.detach() for p in params], optimizer.state_dict()["state"]


def tolerance(param_dtype: str, state_dtype: str) -> float:
    """Relative tolerance after 20 steps: rounding, some hundred units in the last place.

    bfloat16 rounds at random, by up to 2^-7 of the value in each step.
    """
    coarse = "bfloat16" in (param_dtype, state_dtype)
    return 0.06 if coarse else {"float32": 1e-5, "float64": 1e-13}[param_dtype]


def assert_close(actual: Any, expected: Any, rtol: float, scale: float, what: str) -> None:
    """Equal within `rtol` of `scale`, with no NaN."""
    a, b = (torch.as_tensor(x).detach().double() for x in (actual, expected))
    assert a.shape == b.shape, what
    error = float((a - b).abs().max()) if a.numel() else 0.0
    assert error <= rtol * scale, f"{what}: off by {error:g}, {rtol * scale:g} allowed"


def largest(tensors: Iterable[Any]) -> float:
    """The largest magnitude in all of them, 0 without any."""
    every = [torch.as_tensor(t).detach().double().abs().flatten() for t in tensors]
    return max((float(t.max()) for t in every if t.numel()), default=0.0)


def rounding_of_numbers(state: dict[int, dict[str, Any]]) -> float:
    """torch keeps the numbers of a whole tensor in float32, in which a step is exact."""
    names = {k for e in state.values() for k, v in e.items() if torch.is_tensor(v) and v.ndim == 0}
    return 1e-6 if names - {"step"} else 0.0


def assert_equals_reference(
    params: Sequence[Tensor],
    state: dict[int, dict[str, Any]],
    expected: tuple[Sequence[Tensor], dict[int, dict[str, Any]]],
    rtol: float,
) -> None:
    """Parameters, and every entry of the state that torch has, are the reference's."""
    expected_params, expected_state = expected
    rtol = max(rtol, rounding_of_numbers(expected_state))
    scale = largest(expected_params)
    for i, (p, q) in enumerate(zip(params, expected_params, strict=True)):
        assert_close(p, q, rtol, scale, f"params[{i}]")
    names = {name for entries in expected_state.values() for name in entries}
    for name in sorted(names):
        found = {i: entries[name] for i, entries in expected_state.items()}
        if None in found.values():
            assert all(state[i].get(name) is None for i in found)
            continue
        scale = largest(found.values())
        for i, value in found.items():
            assert_close(state[i][name], value, rtol, scale, f"state[{i}][{name!r}]")


def digest() -> str:
    """A hash of what every kernel computes in 20 steps, by plain loops and by compare-exchange."""
    found = hashlib.sha256()
    for case, (param, state), audit in itertools.product(CASES, DTYPES, (False, True)):
        torch.manual_seed(0)  # of the stochastic rounding
        dtype = dtype_of(param)
        extra = {} if state == param else {"state_dtype": dtype_of(state)}
        optimizer = case.ours(
            [Parameter(v) for v in initial(dtype)], nonfinite="skip", audit=audit, **extra
        )
        if audit:
            optimizer.share_memory(workers=1)
        train(optimizer, dtype)
        slots = [v for p in params_of(optimizer) for v in optimizer.state.get(p, {}).values()]
        for tensor in (*params_of(optimizer), *slots):
            found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
