"""bfloat16 parameters and state: stochastic rounding, so the mean is right, not each element.

Many equal elements are given equal gradients: each then is one draw of the same random
variable, whose mean must equal the float64 result. Tolerances are multiples of the draws'
standard deviation, divided by the root of their number.
"""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from .twins import NUMBERS, RULES, SIZES, Twins, draw, options_of, ours, theirs

COPIES = 20_000
STEPS = 60
ULP = 2.0**-8  # distance of bfloat16 numbers between 0.5 and 1

#: Options that keep the expectation of a rounded run near the unrounded one.
LINEAR = [
    (rule, {name: options_of(rule)[name][1]} if name else {})
    for rule in RULES
    for name in (None, "momentum", "weight_decay", "maximize")
    if name is None or name in options_of(rule)
]


def small_steps(rule: str) -> float:
    """A learning rate whose updates of a parameter near 1 are below bfloat16's resolution."""
    default = options_of(rule)["lr"][0]
    return 1e-3 if default < 1 else 0.3 * default


def gradient_sequence() -> list[float]:
    """`STEPS` gradients of mixed size and one sign on average, all exact in bfloat16."""
    (g,) = draw(((STEPS,),), torch.bfloat16, seed=7)
    return (g.double() * 0.5 + 1).bfloat16().tolist()


def run(cls: Any, params: list[Parameter], **options: Any) -> Any:
    """Train all elements of all parameters on the same gradients; the optimizer."""
    optimizer = cls(params, **options)
    for g in gradient_sequence():
        for p in params:
            p.grad = torch.full_like(p, g)
        optimizer.step()
    return optimizer


def reference(rule: str, options: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """The element and its state in float64, by torch."""
    p = Parameter(torch.full((1,), 0.75, dtype=torch.float64))
    optimizer = run(theirs(rule), [p], **options)
    state = {k: v.item() for k, v in optimizer.state[p].items() if isinstance(v, Tensor)}
    return p.item(), state


def assert_mean(actual: Tensor, expected: float, bias: float, what: str) -> None:
    """The mean lies within five standard errors (and a stated bias) of the expected value."""
    values = actual.detach().double()
    error = 5 * float(values.std()) / math.sqrt(values.numel())
    assert float(values.mean()) == pytest.approx(expected, abs=error + bias), what


@pytest.mark.parametrize(("rule", "options"), LINEAR, ids=str)
def test_parameters_move_as_in_float64_on_average(rule: str, options: dict[str, Any]) -> None:
    """Updates below the resolution add up in the mean, where rounding to nearest would stall."""
    options = {"lr": small_steps(rule), **options}
    expected, expected_state = reference(rule, options)
    moved = abs(expected - 0.75)
    assert moved > 2 * ULP
    p = Parameter(torch.full((COPIES,), 0.75, dtype=torch.bfloat16))
    optimizer = run(ours(rule), [p], **options)
    assert p.dtype == torch.bfloat16
    assert_mean(p, expected, 0.01 * moved, "parameter")
    spread = float(p.detach().double().std())
    assert 0 < spread < ULP * math.sqrt(STEPS)
    for key, value in expected_state.items():
        tensor = optimizer.state[p][key]
        if key not in NUMBERS:
            assert tensor.dtype == torch.bfloat16
            assert_mean(tensor, value, 0.01 * abs(value), key)
        else:
            assert tensor.item() == pytest.approx(value, rel=1e-6)


def test_every_element_rounds_to_a_neighbour(rule: str) -> None:
    """The first step of every element ends on one of the two numbers around the exact result."""
    values = draw(SIZES, torch.bfloat16)
    expected = [Parameter(v.double()) for v in values]
    actual = [Parameter(v.clone()) for v in values]
    nearest = total = 0
    for params, cls in ((expected, theirs(rule)), (actual, ours(rule))):
        optimizer = cls(params, lr=10 * options_of(rule)["lr"][0])
        for p, g in zip(params, draw(SIZES, torch.bfloat16, seed=9), strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()
    for start, exact, rounded in zip(values, expected, actual, strict=True):
        exact_value = exact.detach()
        update = (exact_value - start.double()).abs()
        resolution = torch.exp2(exact_value.abs().log2().floor() - 7)
        distance = (rounded.detach().double() - exact_value).abs()
        assert bool((distance <= resolution + update / 64).all())
        nearest += int((rounded.detach() == exact_value.bfloat16()).sum())
        total += rounded.numel()
    assert 0.6 * total < nearest < 0.95 * total  # uniform fractions: 3 of 4


def test_exact_results_are_stored_exactly(rule: str) -> None:
    """With a learning rate of zero no rounding error creeps in, step after step."""
    twins = Twins(rule, draw(SIZES, torch.bfloat16), {"lr": 0.0})
    before = [p.detach().clone() for p in twins.params]
    twins.step(20)
    assert all(torch.equal(a, b) for a, b in zip(before, twins.params, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_nonfinite_numbers_survive_rounding(rule: str, value: float) -> None:
    """NaN stays NaN and infinity infinity, as in torch; no random bit turns one into another."""
    results = []
    for cls in (theirs(rule), ours(rule)):
        p = Parameter(torch.ones(2000, dtype=torch.bfloat16))
        optimizer = cls([p])
        for _ in range(2):
            p.grad = torch.ones_like(p)
            p.grad[1:] = value
            optimizer.step()
        results.append(p.detach())
    for same in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(same(results[0]), same(results[1])), same.__name__
    assert bool(results[1][0].isfinite())


def test_structure_of_the_state_equals_torchs(rule: str) -> None:
    """Keys, shapes and dtypes are torch's, so that dictionaries go both ways."""
    twins = Twins(rule, draw(SIZES, torch.bfloat16))
    for _ in range(2):
        twins.step(3)
        expected, actual = (o.state_dict()["state"] for o, _ in twins.sides)
        described = [
            {
                (i, k): (v.shape, None if k in NUMBERS else v.dtype)
                for i, values in states.items()
                for k, v in values.items()
            }
            for states in (expected, actual)
        ]
        assert described[0] == described[1]
        for optimizer, other in ((twins.actual, expected), (twins.expected, actual)):
            state = {**optimizer.state_dict(), "state": copy.deepcopy(other)}
            optimizer.load_state_dict(state)


def per_element(optimizer: Any, p: Parameter) -> dict[str, Tensor]:
    """A parameter's state tensors of its own shape."""
    return {k: v for k, v in optimizer.state[p].items() if k not in NUMBERS}


@pytest.mark.parametrize(("rule", "options"), LINEAR, ids=str)
def test_bfloat16_state(rule: str, options: dict[str, Any]) -> None:
    """float32 parameters with state in bfloat16 end, on average, where float64 ends."""
    options = {"lr": small_steps(rule), **options}
    expected, expected_state = reference(rule, options)
    p = Parameter(torch.full((COPIES,), 0.75))
    optimizer = run(ours(rule), [p], **options, state_dtype=torch.bfloat16)
    assert p.dtype == torch.float32
    assert_mean(p, expected, 0.01 * abs(expected - 0.75) + 1e-6, "parameter")
    for key, tensor in per_element(optimizer, p).items():
        assert tensor.dtype == torch.bfloat16
        assert_mean(tensor, expected_state[key], 0.01 * abs(expected_state[key]), key)


def test_bfloat16_state_travels(rule: str) -> None:
    """It loads into torch's optimizer and back, staying bfloat16 here, and copies keep it."""
    options = {"momentum": 0.9} if "momentum" in options_of(rule) else {}
    extra = {"state_dtype": torch.bfloat16}
    twins = Twins(rule, draw(SIZES), options, extra=extra)
    twins.step(3)
    there = theirs(rule)([Parameter(p.detach().clone()) for p in twins.params], **options)
    there.load_state_dict(copy.deepcopy(twins.actual.state_dict()))
    back = ours(rule)([Parameter(p.detach().clone()) for p in twins.params], **options, **extra)
    back.load_state_dict(copy.deepcopy(there.state_dict()))
    for optimizer in (back, copy.deepcopy(twins.actual)):
        params = optimizer.param_groups[0]["params"]
        for p, q in zip(params, twins.params, strict=True):
            mine, original = per_element(optimizer, p), per_element(twins.actual, q)
            assert mine.keys() == original.keys()
            assert all(torch.equal(mine[k].float(), original[k].float()) for k in mine)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        for p in params:
            assert {t.dtype for t in per_element(optimizer, p).values()} <= {torch.bfloat16}
    assert {t.dtype for t in per_element(twins.actual, twins.params[0]).values()} == {
        torch.bfloat16
    }


def test_seeds_share_no_rounding() -> None:
    """The momentum buffer of a step is its gradient, rounded anew: a fingerprint of the draws."""
    (g,) = draw(((1000,),), torch.float32, seed=7)

    def rounded(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        p = Parameter(torch.zeros_like(g))
        optimizer = ours("SGD")([p], lr=0.0, momentum=1e-20, state_dtype=torch.bfloat16)
        steps = []
        for _ in range(4):
            p.grad = g.clone()
            optimizer.step()
            steps.append(optimizer.state[p]["momentum_buffer"].clone())
        return steps

    steps = [step for seed in range(3) for step in rounded(seed)]
    equal = [int((one == other).all()) for i, one in enumerate(steps) for other in steps[:i]]
    assert sum(equal) == 0
