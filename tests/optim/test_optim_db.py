"""torch's own optimizer database, used as a source of inputs and of errors."""

import contextlib
import copy
import warnings
from typing import Any, cast

import pytest
import torch
from torch.nn import Parameter

from .twins import RULES, STEPS, Twins, describe, draw, ours, theirs

db = pytest.importorskip(
    "torch.testing._internal.common_optimizers", reason="torch's test modules need expecttest"
)
INFO = {info.optim_cls.__name__: info for info in db.optim_db if info.optim_cls.__name__ in RULES}


def inputs() -> list[tuple[str, dict[str, Any]]]:
    """(rule, options) of every input in the database.

    The inputs listed for CUDA are the same options with `capturable` and a few tensor
    hyperparameters; they are taken without `capturable`, which needs a CUDA graph.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for rule, info in INFO.items():
        for device in ("cpu", "cuda"):
            for listed in info.optim_inputs_func(device=device):
                kwargs = {k: v for k, v in listed.kwargs.items() if k != "capturable"}
                found.setdefault(describe(rule, kwargs), (rule, kwargs))
    return list(found.values())


INPUTS = inputs()


def test_the_database_knows_every_rule() -> None:
    """No rule goes untested because torch's database names it differently."""
    assert set(INFO) == set(RULES)


@pytest.mark.parametrize(("rule", "options"), INPUTS, ids=[describe(r, o) for r, o in INPUTS])
def test_inputs(rule: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Every input equals torch over 100 steps.

    With a tensor among the hyperparameters torch does the scalar arithmetic in the tensor's
    float32, ours is in float64: they agree to float32's precision, whatever the parameters'.
    """
    twins = Twins(rule, draw(((10, 5), (10,)), dtype), copy.deepcopy(options))
    twins.step(STEPS)
    scalars = [x for v in options.values() for x in (v if isinstance(v, tuple) else (v,))]
    twins.check(rtol=1e-5 if any(isinstance(x, torch.Tensor) for x in scalars) else 0.0)


@pytest.mark.parametrize(
    "flags", [{}, {"lr": 0.02}, {"weight_decay": 0.1}, {"maximize": True}], ids=str
)
def test_goes_in_the_right_direction(rule: str, flags: dict[str, Any]) -> None:
    """torch's own convergence check: 20 steps move the loss the way `maximize` says."""
    weight, bias, x = draw(((10, 5), (10,), (5,)))
    params = [Parameter(weight), Parameter(bias)]
    optimizer = ours(rule)(params, **flags)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: Any = (params[0].mv(x) + params[1]).square().sum()
        loss.backward()
        return cast(torch.Tensor, loss)

    first = closure().item()
    for _ in range(20):
        optimizer.step(closure)
    last = closure().item()
    assert last > first if flags.get("maximize") else last < first


def errors() -> list[Any]:
    """Every error input of the database, as pytest parameters."""
    return [
        pytest.param(rule, error, id=f"{rule}-{error.optimizer_error_input.desc}")
        for rule, info in INFO.items()
        for error in info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    ]


@pytest.mark.parametrize(("rule", "error"), errors())
def test_errors(rule: str, error: Any) -> None:
    """Input that torch's constructor refuses raises the same type and text."""
    assert error.error_on is db.OptimizerErrorEnum.CONSTRUCTION_ERROR
    case = error.optimizer_error_input
    params = case.params
    if params is None:
        params = [Parameter(torch.zeros(1, 1))]
    for cls in (theirs(rule), ours(rule)):
        given = copy.deepcopy(params)
        if issubclass(error.error_type, Warning):
            # torch warns of a parameter listed twice and then steps it twice; ours refuses it.
            refusal = pytest.raises(ValueError, match="shares memory")
            refused = refusal if cls is ours(rule) else contextlib.nullcontext()
            with pytest.warns(error.error_type, match=error.error_regex), refused:
                cls(given, **case.kwargs)
        else:
            with (
                pytest.raises(error.error_type, match=error.error_regex),
                warnings.catch_warnings(),
            ):
                cls(given, **case.kwargs)
