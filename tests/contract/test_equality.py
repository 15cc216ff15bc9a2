"""One worker on a store computes what torch.optim computes: every rule, sync and dtype.

`test_isa.py` runs this file under every other instruction set of the build in `make test-long`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from asyncopt import _core

from .cases import (
    CASES,
    DTYPES,
    REPLICAS,
    SYNCS,
    Case,
    assert_close,
    assert_equals_reference,
    dtype_of,
    gradients,
    initial,
    largest,
    params_of,
    reference,
    rounding_of_numbers,
    set_gradients,
    tolerance,
    train,
)

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_sync = pytest.mark.parametrize("sync", SYNCS)
every_dtype = pytest.mark.parametrize(("param_dtype", "state_dtype"), DTYPES)


def shared(case: Case, sync: str, param_dtype: str, state_dtype: str, **extra: Any) -> Any:
    """A shared optimizer of 20 steps."""
    dtype = dtype_of(param_dtype)
    if state_dtype != param_dtype:
        extra["state_dtype"] = dtype_of(state_dtype)
    optimizer = case.ours([Parameter(v) for v in initial(dtype)], sync=sync, **extra)
    optimizer.share_memory(workers=1)
    train(optimizer, dtype)
    return optimizer


def test_instruction_set() -> None:
    """This process uses the requested instruction set, or the best available one."""
    assert _core.isa() == (os.environ.get("ASYNCOPT_ISA") or _core.isas()[-1])


@every_dtype
@every_sync
@every_case
def test_shared_equals_torch(case: Case, sync: str, param_dtype: str, state_dtype: str) -> None:
    """Parameters and state after 20 steps on a store are those of torch in float64."""
    optimizer = shared(case, sync, param_dtype, state_dtype)
    state = optimizer.state_dict()["state"]
    for entries in state.values():
        for name, value in entries.items():
            if value.ndim:
                assert value.dtype == dtype_of(state_dtype), name
    params = params_of(optimizer)
    assert {p.dtype for p in params} == {dtype_of(param_dtype)}
    rtol = tolerance(param_dtype, state_dtype)
    assert_equals_reference(params, state, reference(case, dtype_of(param_dtype)), rtol)
    assert optimizer.store.version == optimizer.ledger().pushes == 20


@every_dtype
@every_case
def test_audit(case: Case, param_dtype: str, state_dtype: str) -> None:
    """Counting compare-exchanges changes no bit of the result, and alone loses nothing."""
    plain, audited = (
        shared(case, "hogwild", param_dtype, state_dtype, audit=audit) for audit in (False, True)
    )
    ledger = audited.ledger()
    assert (ledger.lost_updates, ledger.lost_state_updates, ledger.retries) == (0, 0, 0)
    exact = "bfloat16" not in (param_dtype, state_dtype)
    rtol = 1e-6 if exact else tolerance(param_dtype, state_dtype)  # FMA contraction may differ
    for a, b in zip(params_of(audited), params_of(plain), strict=True):
        assert_close(a, b, rtol, largest([b]), "parameter")
    expected = reference(case, dtype_of(param_dtype))
    rtol = tolerance(param_dtype, state_dtype)
    state = audited.state_dict()["state"]
    assert_equals_reference(params_of(audited), state, expected, rtol)


@every_dtype
@every_sync
@every_case
def test_step_rows(case: Case, sync: str, param_dtype: str, state_dtype: str) -> None:
    """Named rows move as if they were a parameter of their own; the others keep every bit."""
    dtype = dtype_of(param_dtype)
    value, other = initial(dtype, ((9, 17), (5,)))
    rows = torch.tensor([8, 0, 3])
    table, bystander = Parameter(value.contiguous()), Parameter(other)
    start = table.detach().clone()
    few = Parameter(start[rows].double())
    expected = case.theirs([few])
    extra = {} if state_dtype == param_dtype else {"state_dtype": dtype_of(state_dtype)}
    optimizer = case.ours([bystander, table], sync=sync, **extra).share_memory(workers=1)
    before = optimizer.state_dict()["state"].get(1, {})
    before = {k: v.clone() for k, v in before.items()}
    for step in range(10):
        (grad,) = gradients(step, dtype, ((3, 17),))
        assert grad is not None
        set_gradients([few], [grad])
        expected.step()
        optimizer.step_rows(table, rows, grad)
    truths = expected.state_dict()["state"]
    rtol = max(tolerance(param_dtype, state_dtype), rounding_of_numbers(truths))
    assert_close(table[rows], few, rtol, largest([few]), "rows")
    assert torch.equal(bystander, other)
    untouched = [i for i in range(9) if i not in rows]
    assert torch.equal(table[untouched], start[untouched])
    after = optimizer.state_dict()["state"].get(1, {})
    for name, truth in truths.get(0, {}).items():
        if truth is None:
            continue
        mine = after[name][rows] if truth.ndim else after[name]
        assert_close(mine, truth, rtol, largest([truth]), name)
        if truth.ndim and before:
            assert torch.equal(after[name][untouched], before[name][untouched]), name
    assert optimizer.store.version == 10


@every_sync
def test_a_row_named_twice_is_updated_twice(sync: str) -> None:
    case = next(c for c in CASES if c.rule == "SGD" and not c.switches)
    table = Parameter(torch.zeros(4, 16))
    optimizer = case.ours([table], sync=sync).share_memory(workers=1)
    optimizer.param_groups[0].update(lr=1.0, weight_decay=0.0)
    optimizer.step_rows(table, torch.tensor([2, 1, 2]), -torch.ones(3, 16))
    assert table.detach().sum(1).tolist() == [0, 16, 32, 0]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@every_sync
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("rule", ["sgd_momentum", "adam"])
def test_large_tensors_on_two_threads(rule: str, sync: str) -> None:
    """Tensors cut into chunks for several threads are updated once, to the last element."""
    probe = [Parameter(torch.zeros(1))]
    case = next(c for c in CASES if (o := c.ours(probe))._rule(o.param_groups[0]) == rule)
    shapes = ((3,), (1000, 50), ((1 << 17) + 5,))
    sides = []
    make: Any
    for make, dtype in ((case.theirs, torch.float64), (case.ours, torch.float32)):
        params = [Parameter(v.to(dtype)) for v in initial(torch.float32, shapes)]
        extra = {} if make == case.theirs else {"sync": sync}
        optimizer = make(params, **extra)
        if extra:
            optimizer.share_memory(workers=1)
        train(optimizer, torch.float32, steps=2)
        rows = torch.arange(999, -1, -1)  # all rows, from the end: a dense step in disguise
        (grad,) = gradients(7, torch.float32, (shapes[1],))
        assert grad is not None
        if not extra:
            set_gradients(params, [None, grad, None])
            optimizer.step()
        else:
            optimizer.step_rows(params[1], rows, grad[rows])
        sides.append((params, optimizer.state_dict()["state"]))
    assert_equals_reference(*sides[1], sides[0], 1e-5)


@every_sync
def test_where_the_parameters_live(sync: str) -> None:
    """Parameters are in the store or in private copies, as the sync's contract says."""
    param = Parameter(torch.ones(40))
    optimizer = CASES[0].ours([param], sync=sync).share_memory(workers=1)
    memory = optimizer.store.memory
    inside = memory.data_ptr() <= param.data_ptr() < memory.data_ptr() + memory.numel()
    assert inside == (sync not in REPLICAS)
    assert optimizer.is_replica == (sync in REPLICAS)
