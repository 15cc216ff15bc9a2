"""Run torch.optim's optimizer and ours side by side on the same numbers.

Everything here is drawn from `asyncopt.rules()`, `asyncopt.syncs()` and the signatures of
torch.optim: a rule or an option that is added later is tested without a line changed here,
or stops the collection (`ALTERNATES` must know a value for every option).
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt

RULES = asyncopt.rules()
SYNCS = asyncopt.syncs()

#: Dtypes that must equal torch up to rounding, with the relative tolerance promised for each.
RTOL = {torch.float32: 1e-6, torch.float64: 1e-12}

#: Empty, scalar, and sizes around the lane counts of every instruction set.
SIZES = ((0,), (), (1,), (15,), (16,), (17,), (7, 7), (1000,))

STEPS = 100

#: A value other than torch's default for every option that changes the result.
ALTERNATES: dict[str, Any] = {
    "lr": 0.02,
    "momentum": 0.9,
    "dampening": 0.3,
    "weight_decay": 0.1,
    "nesterov": True,
    "maximize": True,
    "betas": (0.8, 0.95),
    "eps": 1e-3,
    "amsgrad": True,
    "decoupled_weight_decay": True,
    "lr_decay": 0.1,
    "initial_accumulator_value": 0.5,
    "rho": 0.5,
    "alpha": 0.6,
    "centered": True,
    "lambd": 0.01,
    "t0": 20,  # averaging starts within the 100 steps
}

#: State that is one number per tensor; torch keeps these in float32 whatever the parameter.
NUMBERS = ("step", "eta", "mu")

#: Options that choose torch's implementation and leave the result unchanged.
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


def ours(rule: str) -> Any:
    """The asyncopt class of a rule."""
    return getattr(asyncopt, rule)


def theirs(rule: str) -> Any:
    """The torch.optim class of the same name."""
    return getattr(torch.optim, rule)


def parameters_of(cls: Any) -> dict[str, inspect.Parameter]:
    """Constructor parameters of an optimizer class, without `self` and `params`."""
    parameters = dict(inspect.signature(cls.__init__).parameters)
    return {k: v for k, v in parameters.items() if k not in ("self", "params")}


def options_of(rule: str) -> dict[str, tuple[Any, Any]]:
    """Every option of a rule that changes the result: its default and another value."""
    return {
        name: (parameter.default, ALTERNATES[name])
        for name, parameter in parameters_of(theirs(rule)).items()
        if name not in IMPLEMENTATION
    }


def accepts(rule: str, options: dict[str, Any]) -> bool:
    """Whether torch's constructor takes this combination of options."""
    try:
        theirs(rule)([Parameter(torch.zeros(1))], **options)
    except ValueError:
        return False
    return True


def combinations() -> Iterator[tuple[str, dict[str, Any]]]:
    """(rule, options) for the cartesian product of all options, the learning rate aside."""
    for rule in RULES:
        options = options_of(rule)
        lr = options.pop("lr")[1]
        for values in itertools.product(*options.values()):
            yield rule, {"lr": lr, **dict(zip(options, values, strict=True))}


def combined() -> Iterator[tuple[str, dict[str, Any]]]:
    """(rule, options): the defaults, and sets of options that together use all state there is."""
    for rule in RULES:
        yield rule, {}
        every = {name: values[1] for name, values in options_of(rule).items()}
        yield rule, {k: v for k, v in every.items() if k != "nesterov"}
        if "nesterov" in every:
            yield rule, {k: v for k, v in every.items() if k != "dampening"}


COMBINED = list(combined())


def describe(rule: str, options: dict[str, Any]) -> str:
    """A test id: the rule and the options that differ from torch's default."""
    known = parameters_of(theirs(rule))
    changed = (
        f"{k}={v}" for k, v in options.items() if k not in known or known[k].default is not v
    )
    return "-".join([rule, *changed]).replace(" ", "")


def largest(tensors: Iterable[Tensor]) -> float:
    """The largest finite magnitude in all of them, 0 without any."""
    finite = [t.detach().abs()[t.detach().isfinite()] for t in tensors]
    return max((float(f.max()) for f in finite if f.numel()), default=0.0)


def assert_close(
    actual: Tensor, expected: Tensor, what: str = "", rtol: float = 0.0, scale: float | None = None
) -> None:
    """Equal up to `rtol` (default: by dtype) of `scale`, by default the largest finite element.

    Rounding is not compared element by element: where an update cancels the parameter, torch's
    own implementations differ by more than any rtol. NaN and infinities must stand at the same
    places.
    """
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    rtol = rtol or RTOL.get(expected.dtype, 0.0)
    scale = largest([expected]) if scale is None else scale
    torch.testing.assert_close(
        actual.detach(),
        expected.detach(),
        rtol=0.0,
        atol=rtol * scale,
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )


def assert_same_state(actual: dict[str, Any], expected: dict[str, Any], rtol: float = 0.0) -> None:
    """Two `state_dict()`s hold the same groups, keys, dtypes and (up to rounding) values.

    Two liberties: a parameter that torch has no state for, as it never had a gradient, may have
    state of zero steps; and the numbers of a whole tensor may have more digits than torch's.
    """
    assert actual.keys() == expected.keys()
    assert actual["param_groups"] == expected["param_groups"]
    assert actual["state"].keys() >= expected["state"].keys()
    for index in actual["state"].keys() - expected["state"].keys():
        assert actual["state"][index]["step"] == 0
    for index, values in expected["state"].items():
        assert actual["state"][index].keys() == values.keys()
        for key, value in values.items():
            mine = actual["state"][index][key]
            if key in NUMBERS:
                assert mine.shape == value.shape == ()
                assert float(mine) == pytest.approx(float(value), rel=1e-6), key
                continue
            assert isinstance(mine, Tensor) == isinstance(value, Tensor), key
            if isinstance(value, Tensor):
                # A single element may be a cancellation error: use the scale of its kind.
                alike = (state.get(key) for state in expected["state"].values())
                scale = largest(t for t in alike if isinstance(t, Tensor))
                assert_close(mine, value, f"state[{index}][{key!r}]", rtol, scale)
            else:
                assert mine == value, f"state[{index}][{key!r}]"


def bytes_of(optimizer: torch.optim.Optimizer) -> list[bytes]:
    """Every byte of an optimizer's parameters and state tensors, in order."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = list(params)
    for p in params:
        state = optimizer.state.get(p, {})
        tensors += [v for v in state.values() if isinstance(v, Tensor)]
    return [
        t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors
    ]


def draw(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32, seed: int = 1
) -> list[Tensor]:
    """Normal tensors of the given shapes; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype) for s in shapes]


class Twins:
    """torch's optimizer and ours over equal parameters; `step` gives both the same gradients.

    Args:
        rule: a name from `asyncopt.rules()`.
        values: initial parameter values, cloned for each side with their strides.
        options: constructor options of both.
        extra: options of ours alone (`sync`, `nonfinite`, ...).
        build: turns a list of parameters into the constructor's `params` (groups, names);
            called once per side.
    """

    def __init__(
        self,
        rule: str,
        values: Sequence[Tensor] | None = None,
        options: dict[str, Any] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        build: Callable[[list[Any]], Any] = list,
    ) -> None:
        values = draw(((17,), (7, 7))) if values is None else values
        self.rule = rule
        self.expected_params: list[Any] = [Parameter(v.detach().clone()) for v in values]
        self.params: list[Any] = [Parameter(v.detach().clone()) for v in values]
        options = options or {}
        self.expected = theirs(rule)(build(self.expected_params), **options)
        self.actual = ours(rule)(build(self.params), **options, **(extra or {}))
        self._generator = torch.Generator().manual_seed(2)

    @property
    def sides(self) -> tuple[tuple[Any, list[Any]], tuple[Any, list[Any]]]:
        """(optimizer, parameters) of torch and of ours."""
        return (self.expected, self.expected_params), (self.actual, self.params)

    def add(self, value: Tensor) -> tuple[Parameter, Parameter]:
        """A further pair of parameters that `step` gives gradients to: (torch's, ours)."""
        pair = Parameter(value.clone()), Parameter(value.clone())
        self.expected_params.append(pair[0])
        self.params.append(pair[1])
        return pair

    def gradients(self, scale: float = 1.0) -> None:
        """Set fresh, equal, never-zero gradients on both sides."""
        for a, b in zip(self.expected_params, self.params, strict=True):
            g = torch.randn(a.shape, dtype=torch.float64, generator=self._generator) * scale
            a.grad = g.to(a.dtype)
            b.grad = g.to(b.dtype)

    def step(self, times: int = 1) -> None:
        """Draw gradients and step both, `times` times."""
        for _ in range(times):
            self.gradients()
            self.expected.step()
            self.actual.step()

    def check(self, rtol: float = 0.0) -> None:
        """Parameters and state dictionaries are equal up to rounding."""
        scale = largest(self.expected_params)
        for i, (a, b) in enumerate(zip(self.expected_params, self.params, strict=True)):
            assert_close(b, a, f"params[{i}]", rtol, scale)
        assert_same_state(self.actual.state_dict(), self.expected.state_dict(), rtol)


def assert_equal(actual: Iterable[Tensor], expected: Iterable[Tensor], rtol: float = 1e-11) -> None:
    """Tensor by tensor, in order."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=rtol, atol=1e-12)


#: Options of the outer optimizer, as in DiLoCo.
NESTEROV = {"lr": 0.7, "momentum": 0.9, "nesterov": True}
