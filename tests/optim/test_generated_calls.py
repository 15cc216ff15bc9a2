"""Bad gradients in thousands of forms: a typed error or a counted skip, and no byte is changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from tests.chaos.scene import often

from .twins import RULES, SYNCS, bytes_of, ours

CALLS = often(500, 100_000)
DTYPES = (torch.float32, torch.float64)
BAD_VALUES = st.sampled_from([float("nan"), float("inf"), -float("inf")])

Attempt = Callable[[], object]
#: The call and its outcome: an error whose text matches, or None for a counted skip.
Fault = tuple[Attempt, str | None]


def spoil(draw: st.DrawFn, grad: Tensor) -> None:
    """A value that is not finite, somewhere."""
    position = draw(st.integers(0, grad.numel() - 1))
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(position), grad.shape))
    grad[place] = draw(BAD_VALUES)


def not_a_row(rows: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(rows, 2**63 - 1), st.integers(-(2**63), -1))


def bad_gradient(draw: st.DrawFn, optimizer: Any, params: list[Parameter]) -> Fault:
    index = draw(st.integers(0, len(params) - 1))
    p = params[index]
    kind = draw(st.sampled_from(["dtype", "shape", "sparse", "value", "strided value"]))
    name = rf"params\[{index}\]\.grad"
    text: str | None = name
    if kind == "dtype":
        others = {torch.float16, torch.bfloat16, torch.int64, torch.complex64, *DTYPES} - {p.dtype}
        p.grad = None
        p.grad_dtype = None
        p.grad = torch.ones(p.shape).to(draw(st.sampled_from(sorted(others, key=str))))
    elif kind == "shape":
        shape = draw(st.lists(st.integers(0, 9), max_size=3).filter(lambda s: tuple(s) != p.shape))
        assert p.grad is not None
        p.grad.data = torch.ones(shape, dtype=p.dtype)
        text = rf"params\[{index}\].*(shape|size)"
    elif kind == "sparse":
        count = draw(st.integers(1, 5))
        rows = torch.zeros(1, count, dtype=torch.int64)
        values = torch.ones(count, *p.shape[1:], dtype=p.dtype)
        p.grad = torch.sparse_coo_tensor(rows, values, p.shape, check_invariants=False)
        if draw(st.booleans()):
            rows[0, draw(st.integers(0, count - 1))] = draw(not_a_row(p.shape[0]))
        else:
            spoil(draw, values)
            text = None
    else:
        if kind == "strided value":
            p.grad = torch.ones(*p.shape[::-1], 2, dtype=p.dtype)[..., 1].permute(
                *reversed(range(p.dim()))
            )
        assert p.grad is not None
        spoil(draw, p.grad)
        text = None
    return optimizer.step, text


def bad_rows(draw: st.DrawFn, optimizer: Any, params: list[Parameter]) -> Fault:
    p = draw(st.sampled_from(params))
    count = draw(st.integers(1, 5))
    n = p.shape[0]
    rows = torch.tensor(draw(st.lists(st.integers(0, n - 1), min_size=count, max_size=count)))
    values = torch.ones(count, *p.shape[1:], dtype=p.dtype)
    target: Tensor = p
    kind = draw(
        st.sampled_from(
            ["range", "index dtype", "index shape", "shape", "dtype", "value", "device", "param"]
        )
    )
    text: str | None = "rows"
    if kind == "range":
        rows[draw(st.integers(0, count - 1))] = draw(not_a_row(n))
    elif kind == "index dtype":
        rows = rows.to(draw(st.sampled_from([torch.int32, torch.uint8, torch.float32, torch.bool])))
    elif kind == "index shape":
        rows = draw(st.sampled_from([rows[:, None], rows[None], rows[0]]))
    elif kind == "shape":
        shape = draw(
            st.lists(st.integers(0, 6), max_size=3).filter(lambda s: tuple(s) != values.shape)
        )
        values = torch.ones(shape, dtype=p.dtype)
        text = "values"
    elif kind == "dtype":
        values = values.to(draw(st.sampled_from([torch.float16, torch.int64, torch.complex128])))
        text = "values"
    elif kind == "value":
        spoil(draw, values)
        text = None
    elif kind == "device":
        rows = rows.to("meta")
    else:
        target = Parameter(torch.ones_like(p))
        text = "param"
    return lambda: optimizer.step_rows(target, rows, values), text


@st.composite
def calls(draw: st.DrawFn, sync: str) -> tuple[Any, list[Parameter], Fault]:
    """An optimizer that has made a step, its parameters with good gradients, and a bad call."""
    dtype = draw(st.sampled_from(DTYPES))
    shapes = draw(
        st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=3), min_size=1, max_size=3)
    )
    params = [Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
    optimizer = ours(draw(st.sampled_from(RULES)))(params, sync=sync, nonfinite="skip")
    if draw(st.booleans()):
        optimizer.share_memory(workers=1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    fault = draw(st.sampled_from([bad_gradient, bad_rows]))(draw, optimizer, params)
    return optimizer, params, fault


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
def test_nothing_is_written(sync: str) -> None:
    """In turn for every sync; together they make ``CALLS`` calls."""

    @settings(
        max_examples=-(-CALLS // len(SYNCS)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(calls(sync))
    def check(call: tuple[Any, list[Parameter], Fault]) -> None:
        optimizer, params, (attempt, text) = call
        before, ledger = bytes_of(optimizer), optimizer.ledger()
        if text is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # that it was skipped
                attempt()
        else:
            with pytest.raises((TypeError, ValueError, RuntimeError), match=rf"(?s){text}"):
                attempt()
        assert bytes_of(optimizer) == before
        since = optimizer.ledger().since(ledger)
        assert (since.pushes, since.skipped_nonfinite) == (0, int(text is None))

        for p in params:
            p.grad = None
            p.grad = torch.ones_like(p)
        optimizer.step()  # goes on as if nothing had been
        assert bytes_of(optimizer) != before

    check()
