"""Bad input to a shared optimizer: a clear error, and not a byte of the store's data changed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from asyncopt.optim import thread_clone

from .looks import IN_PLACE, REPLICAS, SYNCS, data_of, params_of, shared, step

every_sync = pytest.mark.parametrize("sync", SYNCS)


def give(param: Parameter, grad: Tensor) -> None:
    """Sets a gradient that torch itself would refuse."""
    param.grad = None
    if grad.dtype != param.dtype:
        param.grad_dtype = None
    if grad.shape == param.shape and grad.device == param.device:
        param.grad = grad
        return
    # torch checks shape and device when a gradient is set, but not later changes.
    param.grad = torch.zeros_like(param)
    param.grad.data = grad


BAD_GRADIENTS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "dtype": (lambda: torch.ones(5, 3, dtype=torch.float64), "float64"),
    "half": (lambda: torch.ones(5, 3, dtype=torch.bfloat16), "bfloat16"),
    "fewer": (lambda: torch.ones(5, 2), r"\(5, 2\)"),
    "more": (lambda: torch.ones(500, 300), r"\(500, 300\)"),
    "dims": (lambda: torch.ones(15), r"\(15,\)"),
    "sparse": (lambda: torch.ones(5, 3).to_sparse(), "sparse"),
}


@every_sync
@pytest.mark.parametrize("kind", BAD_GRADIENTS)
def test_gradient(kind: str, sync: str) -> None:
    """The bad one is the second of two: nothing is written for the first either."""
    make, message = BAD_GRADIENTS[kind]
    optimizer = shared(sync)
    first, second = params_of(optimizer)
    first.grad = torch.ones(21)
    give(second, make())
    before = data_of(optimizer)
    with pytest.raises(ValueError, match=rf"params\[1\]\.grad: expected torch.float32.*{message}"):
        optimizer.step()
    assert data_of(optimizer) == before
    assert optimizer.store.version == optimizer.ledger().pushes == 3
    second.grad = None
    second.grad_dtype = torch.float32
    step(optimizer, 1)  # and it goes on


@every_sync
def test_gradient_on_another_device(sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch refuses such a gradient; a subclass with a `grad` of its own may yet return one.
    elsewhere: list[Tensor] = []
    meta = torch.ones(5, 3, device="meta")
    real: Any = Tensor.__dict__.get("grad") or torch._C.TensorBase.__dict__["grad"]
    fake = property(
        lambda p: meta if any(p is q for q in elsewhere) else real.__get__(p), real.__set__
    )
    monkeypatch.setattr(Parameter, "grad", fake, raising=False)
    optimizer = shared(sync)
    first, second = params_of(optimizer)
    first.grad = torch.ones(21)
    before = data_of(optimizer)
    elsewhere.append(second)
    with pytest.raises(ValueError, match=r"params\[1\]\.grad: expected .* on cpu.*meta"):
        optimizer.step()
    assert data_of(optimizer) == before


NONFINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


@every_sync
@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_nonfinite_gradient(rule: str, value: str, sync: str) -> None:
    """The push is skipped whole, counted each time, and warned of once."""
    optimizer = shared(sync, rule)
    first, second = params_of(optimizer)
    first.grad = torch.ones(21)
    second.grad = torch.ones(5, 3)
    second.grad[4, 2] = NONFINITE[value]
    before = data_of(optimizer)
    with pytest.warns(RuntimeWarning, match="NaN or infinite; the push was skipped") as caught:
        optimizer.step()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        optimizer.step_rows(second, torch.tensor([4]), second.grad[4:])
    assert data_of(optimizer) == before
    ledger = optimizer.ledger()
    assert (ledger.version, ledger.pushes, ledger.skipped_nonfinite) == (3, 3, 3)
    assert ledger.staleness.count == 3
    step(optimizer, 1, first=3)
    assert data_of(optimizer) != before


@pytest.mark.parametrize("how", ["step", "step_rows"])
def test_the_warning_points_at_the_caller(how: str) -> None:
    """At the line of the user's loop, not into this library."""
    optimizer = shared()
    first, second = params_of(optimizer)
    first.grad = torch.full_like(first, torch.nan)
    rows = (second, torch.tensor([0]), torch.full((1, 3), torch.nan))
    with pytest.warns(RuntimeWarning, match="skipped") as caught:
        getattr(optimizer, how)(*(rows if how == "step_rows" else ()))
    assert caught[0].filename == __file__


@every_sync
def test_nonfinite_gradient_by_wish(sync: str) -> None:
    """`nonfinite="propagate"` is torch's way."""
    optimizer = shared(sync, nonfinite="propagate")
    for p in params_of(optimizer):
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step()
    assert all(bool(p.isnan().all()) for p in params_of(optimizer))
    assert optimizer.ledger().skipped_nonfinite == 0


BAD_ROWS: dict[str, tuple[Any, Any, str]] = {
    "negative": (torch.tensor([0, -1]), torch.ones(2, 3), r"rows: .*\[0, 5\), got -1"),
    "too large": (torch.tensor([5, 0]), torch.ones(2, 3), r"rows: .*\[0, 5\), got 5"),
    "huge": (torch.tensor([2**62]), torch.ones(1, 3), "rows: "),
    "int32": (torch.tensor([1], dtype=torch.int32), torch.ones(1, 3), "rows: expected torch.int64"),
    "matrix": (torch.tensor([[1]]), torch.ones(1, 3), "rows: expected torch.int64"),
    "meta rows": (torch.tensor([1], device="meta"), torch.ones(1, 3), "rows: .* on cpu.*meta"),
    "fewer values": (torch.tensor([1, 2]), torch.ones(1, 3), "values: "),
    "narrow values": (torch.tensor([1]), torch.ones(1, 2), "values: "),
    "float64": (torch.tensor([1]), torch.ones(1, 3, dtype=torch.float64), "values: .*float64"),
    "meta values": (torch.tensor([1]), torch.ones(1, 3, device="meta"), "values: .*meta"),
    "sparse values": (torch.tensor([1]), torch.ones(1, 3).to_sparse(), "values: .*sparse"),
}


@every_sync
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_rows(kind: str, sync: str) -> None:
    """Indices and row gradients are checked before anything is read by them."""
    rows, values, message = BAD_ROWS[kind]
    optimizer = shared(sync)
    before = data_of(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.step_rows(params_of(optimizer)[1], rows, values)
    assert data_of(optimizer) == before
    assert optimizer.store.version == 3


@every_sync
def test_no_rows(sync: str) -> None:
    """Naming none is no push."""
    optimizer = shared(sync)
    before = data_of(optimizer)
    none = torch.tensor([], dtype=torch.int64)
    optimizer.step_rows(params_of(optimizer)[1], none, torch.ones(0, 3))
    assert data_of(optimizer) == before


@every_sync
def test_rows_of_another_parameter(sync: str) -> None:
    optimizer = shared(sync)
    before = data_of(optimizer)
    with pytest.raises(ValueError, match="param: expected one of this optimizer's parameters"):
        optimizer.step_rows(Parameter(torch.ones(5, 3)), torch.tensor([1]), torch.ones(1, 3))
    assert data_of(optimizer) == before


@pytest.mark.parametrize("sync", IN_PLACE)
@pytest.mark.parametrize("how", ["step", "step_rows"])
def test_replaced_memory(how: str, sync: str) -> None:
    """`param.data = ...` takes a parameter out of the store: either kind of step refuses it."""
    optimizer = shared(sync, "SGD")
    first, second = params_of(optimizer)
    first.grad = torch.ones(21)
    second.grad = torch.ones(5, 3) if how == "step" else None
    second.data = torch.zeros(5, 3)
    before = data_of(optimizer)
    rows = (second, torch.tensor([1]), torch.ones(1, 3))
    push = partial(optimizer.step_rows, *rows) if how == "step_rows" else optimizer.step
    with pytest.raises(ValueError, match=r"params\[1\]: .*\.data replaced"):
        push()
    assert data_of(optimizer) == before
    assert bool((second == 0).all())
    assert optimizer.store.version == 3


@pytest.mark.parametrize("sync", REPLICAS)
def test_replaced_memory_of_a_replica(sync: str) -> None:
    """Other memory is a write of all its values; the memory before is left alone."""
    optimizer = shared(sync, "SGD")
    first, second = params_of(optimizer)
    start = second.detach().clone()
    places = [second.data, torch.zeros(5, 3), torch.zeros(5, 3)]
    second.data = places[1]
    optimizer.pull()
    assert bool((second == 0).all())  # not pushed yet
    for p in (first, second):
        p.grad = torch.ones_like(p)
    second.data = places[2]
    optimizer.step()
    torch.testing.assert_close(second.detach(), torch.full((5, 3), -0.1))
    assert torch.equal(places[0], start)
    assert not bool(places[1].any())


def flat(sync: str) -> Any:
    """Shared, with flat gradients: `zero_grad` looks the parameters' memory up for the step."""
    optimizer = shared(sync, "SGD", flat_grads=True)
    optimizer.zero_grad()
    optimizer.zero_grad()
    for p in params_of(optimizer):
        assert p.grad is not None
        p.grad.fill_(1)
    return optimizer


@pytest.mark.parametrize("sync", IN_PLACE)
def test_replaced_memory_with_flat_gradients(sync: str) -> None:
    """One step later than without, at the latest; foreign memory is not touched even before."""
    optimizer = flat(sync)
    _, second = params_of(optimizer)
    second.data = torch.zeros(5, 3)
    with contextlib.suppress(ValueError):
        optimizer.step()
    assert bool((second == 0).all())
    before = data_of(optimizer)
    optimizer.zero_grad()
    with pytest.raises(ValueError, match=r"params\[1\]: .*\.data replaced"):
        optimizer.step()
    assert data_of(optimizer) == before


@pytest.mark.parametrize("sync", REPLICAS)
def test_replaced_memory_of_a_replica_with_flat_gradients(sync: str) -> None:
    """A step writes to no memory that was given back; it takes the new memory for a write."""
    optimizer = flat(sync)
    _, second = params_of(optimizer)
    second.data = torch.zeros(5, 3)
    others = [torch.zeros(5, 3) for _ in range(1000)]  # one of them has the old memory now
    optimizer.step()
    assert not any(bool(other.any()) for other in others)
    optimizer.zero_grad()
    optimizer.step()  # of zeros
    torch.testing.assert_close(second.detach(), torch.full((5, 3), -0.1))


@every_sync
@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 3), torch.float32), ((3, 5), torch.float32), ((5, 3), torch.float64)]
)
def test_replaced_by_something_else(shape: tuple[int, int], dtype: torch.dtype, sync: str) -> None:
    """Another shape or dtype than the store's is refused by step and pull, not passed over."""
    optimizer = shared(sync)
    first, second = params_of(optimizer)
    first.grad = None
    second.grad = None
    second.data = torch.zeros(shape, dtype=dtype)
    second.grad = torch.ones(shape, dtype=dtype)
    before = data_of(optimizer)
    with pytest.raises(ValueError, match=r"params\[1\]"):
        optimizer.step()
    if sync in REPLICAS:
        with pytest.raises(ValueError, match=r"params\[1\]"):
            optimizer.pull()
    assert data_of(optimizer) == before
    assert optimizer.store.version == 3


@every_sync
def test_one_worker_may_not_disturb_another(sync: str) -> None:
    """A refused call of one worker leaves the other unchanged."""
    optimizer = shared(sync)
    (other,) = thread_clone((optimizer,))
    give(params_of(optimizer)[1], torch.ones(5, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="float64"):
        optimizer.step()
    step(other, 1, first=3)
    assert other.store.version == 4
