"""``rowwise=True``: one second moment for a whole row, against the formulas in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt

from .twins import RTOL, bytes_of, ours

ROWWISE = ("Adagrad", "Adam", "AdamW")
SHAPE = (9, 4, 5)
OPTIONS: dict[str, dict[str, Any]] = {
    "Adagrad": {"lr": 0.1, "lr_decay": 0.02, "weight_decay": 0.1, "initial_accumulator_value": 0.3},
    "Adam": {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-3},
    "AdamW": {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-3},
}


class Reference:
    """A row-wise optimizer in float64; rows without a gradient stay as they are."""

    def __init__(self, rule: str, start: Tensor) -> None:
        self.rule, self.options = rule, OPTIONS[rule]
        self.w = start.double().clone()
        first = self.options.get("initial_accumulator_value", 0.0)
        self.second = torch.full((len(start),), first, dtype=torch.float64)
        self.first = torch.zeros_like(self.w)
        self.steps = 0

    def step(self, rows: Tensor, values: Tensor) -> None:
        """`rows` in any order, and more than once; `values` their gradients."""
        h = self.options
        self.steps += 1
        named = rows.unique()
        g = torch.zeros_like(self.w).index_add_(0, rows, values.double())[named]
        w = self.w[named]
        across = tuple(range(1, w.dim()))

        def by_row(x: Tensor) -> Tensor:
            return x.reshape(-1, *[1] * len(across))

        if self.rule == "AdamW":
            decayed, w = g, w * (1 - h["lr"] * h["weight_decay"])
        else:
            decayed = g + h["weight_decay"] * w
        mean_square = decayed.square().mean(across)
        if self.rule == "Adagrad":
            self.second[named] += mean_square
            lr = h["lr"] / (1 + (self.steps - 1) * h["lr_decay"])
            w = w - lr * decayed / (by_row(self.second[named]).sqrt() + 1e-10)
        else:
            a, b = h["betas"]
            self.first[named] = a * self.first[named] + (1 - a) * decayed
            self.second[named] = b * self.second[named] + (1 - b) * mean_square
            second = by_row(self.second[named]) / (1 - b**self.steps)
            w = w - h["lr"] * self.first[named] / (1 - a**self.steps) / (second.sqrt() + h["eps"])
        self.w[named] = w


def second_of(optimizer: Any, p: Tensor) -> Tensor:
    state = optimizer.state[p]
    found: Tensor = state["sum" if "sum" in state else "exp_avg_sq"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("rule", ROWWISE)
def test_formulas(rule: str, sync: str, shared: bool, is_sparse: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    p = Parameter(torch.randn(SHAPE, dtype=dtype, generator=generator))
    expected = Reference(rule, p.detach())
    optimizer = ours(rule)([p], rowwise=True, sync=sync, **OPTIONS[rule])
    if shared:
        optimizer.share_memory(workers=1)
    for _ in range(20):
        if is_sparse:
            rows = torch.randint(0, SHAPE[0], (7,), generator=generator)
            values = torch.randn(7, *SHAPE[1:], dtype=dtype, generator=generator)
            p.grad = torch.sparse_coo_tensor(rows[None], values, SHAPE, check_invariants=True)
        else:
            rows = torch.arange(SHAPE[0])
            p.grad = values = torch.randn(SHAPE, dtype=dtype, generator=generator)
        expected.step(rows, values)
        optimizer.step()
    optimizer.pull()
    rtol = 20 * RTOL[dtype]
    torch.testing.assert_close(p.detach().double(), expected.w, rtol=rtol, atol=rtol)
    second = second_of(optimizer, p)
    assert second.shape == (SHAPE[0], 1, 1)
    torch.testing.assert_close(second.double().flatten(), expected.second, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("rule", ROWWISE)
@pytest.mark.parametrize("shape", [(6,), (), (0, 4), (1, 300), (5, 1)], ids=str)
def test_shapes(rule: str, shape: tuple[int, ...]) -> None:
    """A vector has rows of one element, a number is a row, and none may be there at all."""
    p = Parameter(torch.ones(shape, dtype=torch.float64))
    optimizer = ours(rule)([p], rowwise=True, **OPTIONS[rule])
    expected = Reference(rule, p.detach().reshape(-1) if p.dim() == 0 else p.detach())
    for _ in range(3):
        p.grad = torch.full(shape, 0.5, dtype=torch.float64)
        optimizer.step()
        rows = torch.arange(len(expected.w))
        expected.step(rows, p.grad.reshape(expected.w.shape))
    torch.testing.assert_close(p.detach().reshape(expected.w.shape), expected.w)
    assert second_of(optimizer, p).shape == (shape[:1] + (1,) * (len(shape) - 1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_large_tables_with_threads(threads: int, is_sparse: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shape = (8000, 96)
        p = Parameter(torch.randn(shape, dtype=torch.float64))
        expected = Reference("Adagrad", p.detach())
        optimizer = asyncopt.Adagrad([p], rowwise=True, **OPTIONS["Adagrad"])
        rows = torch.randperm(shape[0])[: 7000 if is_sparse else None]
        values = torch.randn(len(rows), shape[1], dtype=torch.float64)
        p.grad = torch.sparse_coo_tensor(rows[None], values, shape, check_invariants=True)
        if not is_sparse:
            p.grad = p.grad.to_dense()
        optimizer.step()
        expected.step(rows, values)
        torch.testing.assert_close(p.detach(), expected.w)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rule", ROWWISE)
def test_bfloat16_state(rule: str) -> None:
    """Rounded at random, right on average."""
    errors = []
    for seed in range(40):
        torch.manual_seed(seed)
        p = Parameter(torch.ones(3, 64))
        optimizer = ours(rule)([p], rowwise=True, state_dtype=torch.bfloat16, **OPTIONS[rule])
        expected = Reference(rule, p.detach())
        for _ in range(5):
            p.grad = torch.full((3, 64), 0.7)
            optimizer.step()
            expected.step(torch.arange(3), p.grad)
        assert second_of(optimizer, p).dtype == torch.bfloat16
        errors.append(second_of(optimizer, p).double().flatten() / expected.second - 1)
    assert float(torch.cat(errors).abs().max()) < 0.03
    assert float(torch.cat(errors).mean().abs()) < 0.002


@pytest.mark.parametrize("rule", ROWWISE)
def test_copies_and_state_dicts_keep_it(rule: str, sync: str) -> None:
    p = Parameter(torch.randn(4, 3))
    optimizer = ours(rule)([p], rowwise=True, sync=sync)
    p.grad = torch.randn(4, 3)
    optimizer.step()
    q = copy.deepcopy(p)
    again = ours(rule)([q], rowwise=True, sync=sync)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.share_memory(workers=1)
    clone = copy.deepcopy(again)
    (r,) = clone.param_groups[0]["params"]
    for opt, param in ((optimizer, p), (again, q), (clone, r)):
        param.grad = torch.ones(4, 3)
        opt.step()
    again.pull()
    assert torch.equal(p, q)
    assert torch.equal(p, r)
    assert clone.rowwise


def test_state_of_an_optimizer_without_it_is_refused() -> None:
    p = Parameter(torch.ones(4, 3))
    plain = torch.optim.Adagrad([p])
    optimizer = asyncopt.Adagrad([p], rowwise=True)
    p.grad = torch.ones(4, 3)
    optimizer.step()
    before = bytes_of(optimizer)
    with pytest.raises(
        ValueError, match=r"state\['sum'\] of params\[0\]: expected shape \(4, 1\), got \(4, 3\)"
    ):
        optimizer.load_state_dict(plain.state_dict())
    assert bytes_of(optimizer) == before


@pytest.mark.parametrize("rule", ROWWISE)
def test_checkpoints(rule: str, tmp_path: Path) -> None:
    def made() -> tuple[torch.nn.Module, Any]:
        torch.manual_seed(0)
        table = torch.nn.Embedding(6, 4, sparse=True)
        return table, ours(rule)(table.parameters(), rowwise=True)

    def train(table: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        table(torch.tensor([1, 4, 1])).square().sum().backward()
        optimizer.step()

    first, second = made(), made()
    train(*first)
    asyncopt.save(first, tmp_path)
    found = asyncopt.resume(tmp_path)
    assert found is not None
    found.restore(second)
    train(*first)
    train(*second)
    assert bytes_of(first[1]) == bytes_of(second[1])


def test_amsgrad_is_refused() -> None:
    with pytest.raises(ValueError, match="amsgrad: expected False with rowwise=True"):
        asyncopt.Adam([Parameter(torch.ones(2))], rowwise=True, amsgrad=True)


def test_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"params\[0\]: .*rowwise=True.*strides \(1, 3\)"):
        asyncopt.Adagrad([Parameter(torch.ones(2, 3).T)], rowwise=True)
