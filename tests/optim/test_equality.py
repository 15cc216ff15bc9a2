"""Alone in a process, every rule computes what its namesake in torch.optim computes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from .twins import (
    ALTERNATES,
    RULES,
    SIZES,
    STEPS,
    Twins,
    accepts,
    assert_close,
    combinations,
    describe,
    draw,
    options_of,
    ours,
    parameters_of,
    theirs,
)

COMBINATIONS = list(combinations())


@pytest.mark.parametrize(
    ("rule", "options"), COMBINATIONS, ids=[describe(r, o) for r, o in COMBINATIONS]
)
def test_every_option(rule: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """The cartesian product of a rule's options, 100 steps; refused where torch refuses."""
    if not accepts(rule, options):
        with pytest.raises(ValueError, match=r"."):
            ours(rule)(draw(((1,),), dtype), **options)
        return
    twins = Twins(rule, draw(((7, 7),), dtype), options)  # 3 x 16 lanes and a tail of 1
    twins.step(STEPS)
    twins.check()


def test_defaults_over_every_size(rule: str, dtype: torch.dtype) -> None:
    """All sizes in one optimizer, 100 steps with the default options."""
    twins = Twins(rule, draw(SIZES, dtype))
    twins.step(STEPS)
    twins.check()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_single_tensor_of_every_size(rule: str, size: tuple[int, ...]) -> None:
    """One tensor alone in the optimizer, the empty one and the scalar too."""
    twins = Twins(rule, draw((size,)))
    twins.step(3)
    twins.check()


def test_large_tensors_use_the_cores(rule: str) -> None:
    """Above any threshold for splitting the work among threads, the result is the same."""
    twins = Twins(rule, draw(((200_003,),)), {"lr": 0.02})
    twins.step(2)
    twins.check()


def test_every_sync_alone(rule: str, sync: str, dtype: torch.dtype) -> None:
    """With nobody else writing, all syncs give the serial result."""
    options = {name: values[1] for name, values in options_of(rule).items()}
    options.pop("nesterov", None)  # not with dampening
    twins = Twins(rule, draw(SIZES, dtype), options, extra={"sync": sync})
    twins.step(20)
    assert twins.actual.sync == sync
    twins.check()


def test_audit_alone(rule: str, dtype: torch.dtype) -> None:
    """Counting lost updates changes no result."""
    twins = Twins(rule, draw(SIZES, dtype), extra={"audit": True})
    twins.step(20)
    twins.check()


def tensor_options() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(rule, option, shape) for every option that torch's step takes as a tensor of one."""
    for rule in RULES:
        for name, parameter in parameters_of(theirs(rule)).items():
            if "Tensor" in str(parameter.annotation):
                for shape in ((), (1,), (1, 1)):
                    p = Parameter(torch.ones(2))
                    p.grad = torch.ones(2)
                    with contextlib.suppress(TypeError):  # weight_decay must be a scalar
                        theirs(rule)([p], **{name: tensor_option(name, shape)}).step()
                        yield rule, name, shape


def tensor_option(name: str, shape: tuple[int, ...]) -> Any:
    """The alternate value of an option as a tensor, or as a tuple of them."""
    value = ALTERNATES[name]
    if isinstance(value, tuple):
        return tuple(torch.full(shape, v, dtype=torch.float64) for v in value)
    return torch.full(shape, value, dtype=torch.float64)


@pytest.mark.parametrize(("rule", "name", "shape"), list(tensor_options()), ids=str)
def test_tensor_hyperparameters(rule: str, name: str, shape: tuple[int, ...]) -> None:
    """Options may be one-element tensors; changing them in place is seen at the next step."""
    twins = Twins(rule, options={name: tensor_option(name, shape)})
    twins.step(10)
    for optimizer, _ in twins.sides:
        current = optimizer.param_groups[0][name]
        for value in current if isinstance(current, tuple) else (current,):
            value.mul_(0.5)
    twins.step(10)
    twins.check()


def test_learning_rate_tensor_is_read_at_every_step(rule: str) -> None:
    """A tensor lr changed in place takes effect at the next step and is never written."""
    twins = Twins(rule, options={"lr": 0.1})
    for optimizer, _ in twins.sides:
        optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    for _ in range(5):
        for optimizer, _ in twins.sides:
            optimizer.param_groups[0]["lr"].mul_(0.5)
        twins.step()
    twins.check()
    assert twins.actual.param_groups[0]["lr"].item() == pytest.approx(0.1 * 0.5**5)


@pytest.mark.parametrize("flag", ["foreach", "fused"])
@pytest.mark.parametrize("value", [False, True])
def test_implementation_flags_change_nothing(rule: str, flag: str, value: bool) -> None:
    """`foreach` and `fused` are accepted where torch accepts them; the result is the same."""
    if flag not in parameters_of(theirs(rule)):
        with pytest.raises(TypeError, match=flag):
            ours(rule)(draw(((3,),)), **{flag: value})
        return
    twins = Twins(rule, options={flag: value})
    twins.step(20)
    # torch's own foreach ASGD is further from its default than our tolerance.
    twins.check(rtol=1e-5)
    assert twins.actual.param_groups[0][flag] is value


def test_mixed_dtypes_in_one_optimizer(rule: str) -> None:
    """float32 and float64 parameters in one group, interleaved."""
    values = draw(((17,), (16,), (5,), (33,)))
    twins = Twins(rule, [v.double() if i % 2 else v for i, v in enumerate(values)])
    twins.step(20)
    twins.check()


@pytest.mark.parametrize(
    ("rule", "name"), [(r, n) for r in RULES for n in options_of(r)], ids=lambda v: v
)
def test_options_changed_between_steps(rule: str, name: str) -> None:
    """`param_groups[0][name] = value` takes effect at the next step, and back again."""
    default, other = options_of(rule)[name]
    twins = Twins(rule)
    twins.step(5)
    for value in (other, default):
        for optimizer, _ in twins.sides:
            optimizer.param_groups[0][name] = value
        try:
            twins.gradients()
            twins.expected.step()
        except KeyError:  # torch cannot switch this on after the first step; ours starts it then
            twins.actual.step()
            assert all(p.isfinite().all() for p in twins.params)
            return
        twins.actual.step()
        twins.step(4)
    twins.check()


def test_default_dtype_float64(rule: str) -> None:
    """State scalars follow torch's default dtype as torch's own do."""
    torch.set_default_dtype(torch.float64)
    twins = Twins(rule, draw(((5,),), torch.float64))
    twins.step(5)
    twins.check(rtol=1e-7)  # torch keeps eta in the default dtype


def test_a_real_model(rule: str) -> None:
    """A small network with its own gradients ends at the same loss and the same weights."""
    inputs, targets = draw(((32, 6), (32, 1)), torch.float64)
    models, losses = [], []
    for cls in (theirs(rule), ours(rule)):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1)).double()
        optimizer = cls(model.parameters(), lr=0.01)
        first = last = float("nan")
        for step in range(50):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            optimizer.step()
            first, last = (loss.item() if step == 0 else first), loss.item()
        assert last < first
        models.append(model)
        losses.append(last)
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert_close(b, a, rtol=1e-10)
