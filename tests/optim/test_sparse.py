"""Sparse gradients, as `nn.Embedding(sparse=True)` and `EmbeddingBag` leave them in `.grad`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt import _core

from .twins import COMBINED, Twins, assert_close, bytes_of, describe, draw, ours

ROWS, WIDTH = 20, 7


def sparse(rows: Tensor, values: Tensor, like: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows[None], values, like.shape, check_invariants=True)


def some_rows(generator: torch.Generator, count: int, rows: int = ROWS) -> Tensor:
    """Row indices in no order, with repetitions."""
    return torch.randint(0, rows, (count,), generator=generator)


#: torch's optimizers that take sparse gradients. torch divides Adam's eps by the bias correction
#: in SparseAdam alone; a small one does not tell.
TORCH: dict[str, Any] = {
    "Adam": (torch.optim.SparseAdam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-14}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.02}),
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("kind", TORCH)
def test_embedding_trains_as_with_torch(
    kind: str, sync: str, shared: bool, dtype: torch.dtype
) -> None:
    cls, options = TORCH[kind]
    layers = [torch.nn.Embedding(ROWS, WIDTH, sparse=True, dtype=dtype) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    theirs = cls(layers[0].parameters(), **options)
    mine = ours(kind)(layers[1].parameters(), sync=sync, **options)
    if shared:
        mine.share_memory(workers=1)
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        chosen = some_rows(generator, 12).reshape(3, 4)
        target = torch.randn(3, 4, WIDTH, dtype=dtype, generator=generator)
        for layer, optimizer in zip(layers, (theirs, mine), strict=True):
            optimizer.zero_grad()
            (layer(chosen) - target).square().sum().backward()
            optimizer.step()
    assert_close(layers[1].weight, layers[0].weight, rtol=1e-5 if dtype.itemsize == 4 else 0.0)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_embedding_bag(mode: str) -> None:
    bags = [torch.nn.EmbeddingBag(ROWS, WIDTH, mode=mode, sparse=True) for _ in range(2)]
    bags[1].load_state_dict(bags[0].state_dict())
    generator = torch.Generator().manual_seed(3)
    theirs = torch.optim.SGD(bags[0].parameters(), lr=0.1)
    mine = asyncopt.SGD(bags[1].parameters(), lr=0.1)
    for _ in range(10):
        words = some_rows(generator, 9)
        for bag, optimizer in zip(bags, (theirs, mine), strict=True):
            optimizer.zero_grad()
            bag(words, torch.tensor([0, 2, 2])).square().sum().backward()
            optimizer.step()
    assert_close(bags[1].weight, bags[0].weight, rtol=1e-5)


@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=[describe(*each) for each in COMBINED])
def test_a_gradient_of_all_rows_is_a_dense_one(rule: str, options: dict[str, Any]) -> None:
    """Every rule and option: torch's step on the sum of the parts."""
    twins = Twins(rule, draw(((ROWS, WIDTH), (ROWS, 2, 3), (ROWS,)), torch.float64), options)
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        for a, b in zip(twins.expected_params, twins.params, strict=True):
            # Each row at least once, some more often.
            rows = torch.cat([torch.randperm(ROWS, generator=generator), some_rows(generator, 15)])
            values = torch.randn(len(rows), *b.shape[1:], dtype=torch.float64, generator=generator)
            a.grad = torch.zeros_like(a).index_add_(0, rows, values)
            b.grad = sparse(rows, values, b)
        twins.expected.step()
        twins.actual.step()
    twins.check(rtol=1e-11)


def test_untouched_rows_keep_every_byte(rule: str, sync: str) -> None:
    p = Parameter(torch.randn(ROWS, WIDTH))
    optimizer = ours(rule)([p], weight_decay=0.1, sync=sync)
    optimizer.share_memory(workers=1)
    p.grad = torch.randn(ROWS, WIDTH)
    optimizer.step()  # state to lose
    rows = torch.tensor([3, 17, 3])
    others = torch.ones(ROWS, dtype=torch.bool).index_fill_(0, rows, False)
    optimizer.pull()
    before = {k: v.clone() for k, v in tensors_of(optimizer).items()}
    p.grad = sparse(rows, torch.randn(3, WIDTH), p)
    optimizer.step()
    optimizer.pull()
    for name, now in tensors_of(optimizer).items():
        if now.dim() == 2:
            assert torch.equal(now[others], before[name][others]), name
            assert not torch.equal(now[3], before[name][3]) or name == "ax"
        elif name == "step":
            assert now == before[name] + 1


def tensors_of(optimizer: Any) -> dict[str, Tensor]:
    (p,) = optimizer.param_groups[0]["params"]
    return {"param": p.detach(), **optimizer.state[p]}


def test_a_table_and_dense_layers_in_one_step(sync: str) -> None:
    """Groups with gradients of both kinds, and parameters without one."""
    table, matrix, unused = (Parameter(torch.zeros(4, 3)) for _ in range(3))
    optimizer = asyncopt.SGD([{"params": [table, unused]}, {"params": [matrix]}], lr=1.0, sync=sync)
    optimizer.share_memory(workers=1)
    table.grad = sparse(torch.tensor([2, 0, 2]), -torch.ones(3, 3), table)
    matrix.grad = -torch.ones(4, 3)
    optimizer.step()
    optimizer.pull()
    assert table[:, 0].tolist() == [1, 0, 2, 0]
    assert bool((matrix == 1).all())
    assert bool((unused == 0).all())
    assert optimizer.ledger().pushes == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_many_rows_with_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        p = Parameter(torch.zeros(5000, 128))
        optimizer = asyncopt.SGD([p], lr=1.0)
        generator = torch.Generator().manual_seed(0)
        rows = torch.cat([some_rows(generator, 9000, 5000), torch.full((3000,), 77)])
        p.grad = sparse(rows, torch.full((len(rows), 128), -1.0), p)
        optimizer.step()
        counts = torch.bincount(rows, minlength=5000).float()
        assert torch.equal(p.detach(), counts[:, None].expand(5000, 128))
    finally:
        torch.set_num_threads(before)


def test_no_rows(rule: str, sync: str) -> None:
    """An empty batch changes nothing but the count of steps."""
    p = Parameter(torch.ones(4, 3))
    optimizer = ours(rule)([p], sync=sync)
    optimizer.share_memory(workers=1)
    p.grad = sparse(torch.empty(0, dtype=torch.int64), torch.empty(0, 3), p)
    optimizer.step()
    assert optimizer.ledger().pushes == 1
    assert bool((p == 1).all())


def test_zero_grad_keeps_the_gradient() -> None:
    layer = torch.nn.Embedding(4, 3, sparse=True)
    optimizer = asyncopt.SGD(layer.parameters(), lr=1.0)
    layer(torch.tensor([1])).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert layer.weight.grad is not None
    assert layer.weight.grad.to_dense().count_nonzero() == 0


@pytest.mark.parametrize("strength", [0.5, (0.5, 0.9)], ids=str)
def test_delay_compensation(strength: Any) -> None:
    """As for the same gradient, dense, in the rows that it has."""
    found = []
    for make in (sparse, lambda rows, values, p: sparse(rows, values, p).to_dense()):
        p = Parameter(torch.arange(12.0).reshape(4, 3))
        optimizer = asyncopt.SGD([p], lr=0.5, delay_compensation=strength)
        optimizer.share_memory(workers=1)
        p.data.add_(1)  # by somebody else
        p.grad = make(torch.tensor([2, 0, 2]), torch.ones(3, 3), p)
        optimizer.step()
        found.append(p.detach().clone())
    torch.testing.assert_close(found[0], found[1])


BAD: dict[str, tuple[Any, str]] = {
    "rows and columns": (lambda p: torch.ones_like(p).to_sparse(), "sparse in 2 dimensions"),
    "negative": (
        lambda p: torch.sparse_coo_tensor(
            torch.tensor([[0, -1]]), torch.ones(2, 3), p.shape, check_invariants=False
        ),
        r"row indices in \[0, 5\), got -1",
    ),
    "too large": (
        lambda p: torch.sparse_coo_tensor(
            torch.tensor([[5]]), torch.ones(1, 3), p.shape, check_invariants=False
        ),
        r"row indices in \[0, 5\), got 5",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused(kind: str, sync: str) -> None:
    make, text = BAD[kind]
    good, p = Parameter(torch.ones(5, 3)), Parameter(torch.ones(5, 3))
    optimizer = asyncopt.Adam([good, p], sync=sync)
    optimizer.share_memory(workers=1)
    good.grad = torch.ones(5, 3)
    p.grad = make(p)
    before = bytes_of(optimizer)
    with pytest.raises(ValueError, match=rf"params\[1\]\.grad.*{text}"):
        optimizer.step()
    assert bytes_of(optimizer) == before
    assert optimizer.ledger().pushes == 0


def test_a_column_major_table_is_refused() -> None:
    p = Parameter(torch.ones(3, 5).T)
    optimizer = asyncopt.SGD([p], lr=1.0)
    p.grad = sparse(torch.tensor([1]), torch.ones(1, 3), p)
    with pytest.raises(ValueError, match=r"params\[0\]\.grad.*strides \(1, 5\).*contiguous"):
        optimizer.step()
    assert bool((p == 1).all())


def test_values_in_another_memory_order() -> None:
    p = Parameter(torch.zeros(4, 3))
    optimizer = asyncopt.SGD([p], lr=1.0)
    values = torch.arange(6.0).reshape(3, 2).T
    p.grad = sparse(torch.tensor([3, 1]), values, p)
    optimizer.step()
    assert torch.equal(p.detach()[[3, 1]], -values)


def test_not_finite_values_are_skipped(sync: str) -> None:
    p = Parameter(torch.ones(4, 3))
    optimizer = asyncopt.SGD([p], sync=sync)
    optimizer.share_memory(workers=1)
    p.grad = sparse(torch.tensor([1, 1]), torch.tensor([[1.0, 1, 1], [1, float("inf"), 1]]), p)
    with pytest.warns(RuntimeWarning, match="skipped"):
        optimizer.step()
    assert bool((p == 1).all())
    assert optimizer.ledger().skipped_nonfinite == 1


def flags_at(address: int) -> set[str]:
    """The kernel's flags of the mapping that contains an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    raise AssertionError(f"no mapping at {address:x}")


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without large pages"
)
def test_state_of_large_tables_asks_for_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def prefer(at: int, size: int, really: Any = _core.prefer_huge_pages) -> None:
        asked.append(at)
        really(at, size)

    monkeypatch.setattr(_core, "prefer_huge_pages", prefer)
    large, small = Parameter(torch.zeros(40_000, 64)), Parameter(torch.zeros(400, 64))
    optimizer = asyncopt.Adagrad([large, small])
    at = optimizer.state[large]["sum"].data_ptr()
    assert asked == [at]
    assert "hg" in flags_at(at + (5 << 20))
