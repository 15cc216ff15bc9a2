"""Tensors without storage of their own: DTensors are stepped, all others are refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import asyncopt

from . import dtensor_jobs
from .twins import ALTERNATES, RULES, options_of

CASES = [(rule, {"lr": 0.05}) for rule in RULES] + [
    (rule, {k: ALTERNATES[k] for k in options_of(rule) if k not in ("nesterov", "maximize", "eps")})
    for rule in RULES
]


@pytest.mark.slow
def test_fsdp2(tmp_path: Path) -> None:
    """`fully_shard` on two processes: as torch.optim, state dicts included."""
    spawn: Any = torch.multiprocessing.spawn  # type: ignore[attr-defined]
    spawn(dtensor_jobs.train, (tmp_path / "rendezvous", CASES), nprocs=dtensor_jobs.RANKS)


class Wrapped(Tensor):
    """A wrapper subclass, like those of torchao."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        made: Any = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.held = inner
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return Wrapped(args[0].held)
        raise NotImplementedError(f"{func}")


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.ones(3)


MADE: dict[str, Callable[[], Tensor]] = {
    "Wrapped": lambda: Wrapped(torch.ones(3)),
    "FakeTensor": fake,
    "functional": lambda: torch._to_functional_tensor(torch.ones(3)),
    "meta": lambda: torch.ones(3, device="meta"),
}


@pytest.mark.parametrize("kind", MADE)
def test_others_are_refused(kind: str, rule: str) -> None:
    """As parameters and as gradients."""
    word = "without any" if kind != "meta" else "meta"
    cls = getattr(asyncopt, rule)
    with pytest.raises(ValueError, match=rf"params\[0\]: .*{word}"):
        cls([MADE[kind]().requires_grad_()])
    if kind in ("Wrapped", "FakeTensor"):
        with pytest.raises(ValueError, match=kind):
            cls([MADE[kind]().requires_grad_()])
    param = nn.Parameter(torch.ones(3))
    optimizer = cls([param])
    try:
        param.grad = MADE[kind]()
    except RuntimeError:
        return  # torch itself does not take it
    with pytest.raises(ValueError, match=rf"params\[0\]\.grad: .*{word}"):
        optimizer.step()
    assert param.tolist() == [1, 1, 1]


def test_two_of_them_are_not_said_to_share_memory() -> None:
    """Their address is 0 alike."""
    with pytest.raises(ValueError, match=r"params\[0\]: expected a tensor with storage"):
        asyncopt.SGD([Wrapped(torch.ones(3)).requires_grad_() for _ in range(2)])


def test_rows_without_storage() -> None:
    """`step_rows` refuses indices and gradients without storage."""
    table = nn.Parameter(torch.ones(3, 1))
    with pytest.raises(ValueError, match="values: expected a tensor with storage, got a Wrapped"):
        asyncopt.SGD([table]).step_rows(table, torch.tensor([0]), Wrapped(torch.ones(1, 1)))
