"""Gradients that name a row more than once: each way of a push applies the sum to the row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt

from .jobs import params_of
from .twins import COMBINED, bytes_of, describe, ours, theirs

ROWS, WIDTH = 6, 3

ENTRIES = ("step_rows", "sparse")


def push(entry: str, optimizer: Any, rows: Tensor, values: Tensor) -> None:
    (param,) = params_of(optimizer)
    if entry == "step_rows":
        optimizer.step_rows(param, rows, values)
    else:
        param.grad = torch.sparse_coo_tensor(rows[None], values, param.shape, check_invariants=True)
        optimizer.step()


def drawn(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Rows in no order, the first of them at least twice, and their gradients."""
    rows = torch.randint(0, ROWS, (count,), generator=generator)
    rows[-1] = rows[0]
    return rows, torch.randn(count, WIDTH, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("count", [5, 200], ids=str)  # sorted by comparing, and by counting
@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=[describe(*each) for each in COMBINED])
def test_step_rows_equals_torch(rule: str, options: dict[str, Any], count: int) -> None:
    """Every row is named, so that torch's dense step is the same."""
    (start,) = (torch.randn(ROWS, WIDTH, dtype=torch.float64),)
    reference, param = Parameter(start.clone()), Parameter(start.clone())
    expected, actual = theirs(rule)([reference], **options), ours(rule)([param], **options)
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        rows, values = drawn(generator, count)
        rows = torch.cat([torch.arange(ROWS), rows])
        values = torch.cat([torch.ones(ROWS, WIDTH, dtype=torch.float64), values])
        reference.grad = torch.zeros_like(start).index_add_(0, rows, values)
        expected.step()
        actual.step_rows(param, rows, values)
    torch.testing.assert_close(param.detach(), reference.detach(), rtol=1e-11, atol=1e-12)


WAYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "late": (("SGD", "Adam"), {"staleness_lr": "inverse"}),
    "lazy": (("SGD", "Adam"), {"sparse_updates": "dense", "weight_decay": 0.1}),
    "rowwise": (("Adagrad", "Adam", "AdamW"), {"rowwise": True}),
}
CASES = [(way, rule) for way, (rules, _) in WAYS.items() for rule in rules]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(("way", "rule"), CASES, ids=[" ".join(case) for case in CASES])
def test_repeats_are_their_sum(way: str, rule: str, sync: str, entry: str) -> None:
    """A push of two late workers is that of each row's sum, which names it once."""
    options = {"lr": 0.1, **WAYS[way][1]}
    if way == "lazy" and asyncopt.optim.kernels.syncs()[sync]["replica"]:
        pytest.skip("a sync with replicas has no lazy updates")
    found = []
    for sums in (False, True):
        torch.manual_seed(1)
        first = ours(rule)(
            [Parameter(torch.randn(ROWS, WIDTH, dtype=torch.float64))], sync=sync, **options
        )
        first.share_memory(workers=1)
        (second,) = asyncopt.optim.thread_clone((first,))
        generator = torch.Generator().manual_seed(4)
        for step in range(12):
            rows, values = drawn(generator, 5)
            if sums:
                named = rows.unique()
                whole = torch.zeros(ROWS, WIDTH, dtype=torch.float64).index_add_(0, rows, values)
                rows, values = named, whole[named]
            push(entry, second if step % 3 == 2 else first, rows, values)
        first.pull()
        first.catch_up()
        found.append(params_of(first)[0].detach().clone())
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("strength", [None, 0.5, (0.5, 0.9)], ids=str)
def test_sums_of_bfloat16_are_rounded_once(entry: str, strength: Any) -> None:
    """Adding one by one in bfloat16 ends at 256 whatever the number of ones."""
    param = Parameter(torch.zeros(2, 3, dtype=torch.bfloat16))
    optimizer = asyncopt.SGD([param], lr=1.0, sync="mutex", delay_compensation=strength)
    optimizer.share_memory(workers=1)
    rows = torch.ones(1000, dtype=torch.int64)
    push(entry, optimizer, rows, torch.ones(1000, 3, dtype=torch.bfloat16))
    assert param.tolist() == [[0.0] * 3, [-1000.0] * 3]


def test_caught_up_rows_may_repeat() -> None:
    """The pending updates of a row that is named twice are applied once."""
    found = []
    for rows in ([1, 1, 4, 1], [1, 4]):
        param = Parameter(torch.ones(ROWS, WIDTH, dtype=torch.float64))
        optimizer = asyncopt.SGD([param], lr=0.1, weight_decay=0.5, sparse_updates="dense")
        for _ in range(3):
            optimizer.step_rows(param, torch.tensor([0]), torch.ones(1, WIDTH, dtype=torch.float64))
        optimizer.catch_up(param, torch.tensor(rows))
        found.append(bytes_of(optimizer))
        torch.testing.assert_close(param[1].detach(), torch.full_like(param[1], 0.95**3))
    assert found[0] == found[1]
