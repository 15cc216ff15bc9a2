"""Replicas and a center: EASGD and local steps, against the papers' algorithms in float64."""

from __future__ import annotations

import copy
import functools
import pickle
import random
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt.optim import ElasticAveraging, LocalSteps, thread_clone

from .jobs import params_of
from .twins import NESTEROV, SYNCS, assert_equal, draw

WORKERS = 3

#: Local optimizers: torch's and ours, without and with state.
LOCAL: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch SGD": functools.partial(torch.optim.SGD, lr=0.1),
    "torch Adam": functools.partial(torch.optim.Adam, lr=0.05),
    "ours": functools.partial(asyncopt.SGD, lr=0.05, momentum=0.9),
}


def script(count: int, seed: int = 5) -> list[int]:
    """Which worker takes which step: fast and slow ones."""
    rng = random.Random(seed)
    return [min(int(rng.expovariate(1.0)), WORKERS - 1) for _ in range(count)]


def gradient(at: Tensor, step: int) -> Tensor:
    """Gradient of (at - target)^2 / 2 for a target that moves."""
    (target,) = draw((tuple(at.shape),), torch.float64, seed=step % 7)
    return at.detach() - target


class Reference:
    """Workers with float64 parameters of their own, and a center."""

    def __init__(self, start: Tensor, local: Callable[[Any], torch.optim.Optimizer], every: int):
        self.x = [Parameter(start.clone()) for _ in range(WORKERS)]
        self.local = [local([x]) for x in self.x]
        self.taken = [0] * WORKERS
        self.center = start.clone()
        self.every = every
        self.exchanges = 0

    def local_step(self, i: int, g: Tensor) -> None:
        self.x[i].grad = g
        self.local[i].step()
        self.taken[i] += 1


class EASGD(Reference):
    """Algorithm 1 of arXiv 1412.6651."""

    def __init__(self, *args: Any, alpha: float):
        super().__init__(*args)
        self.alpha = alpha

    def step(self, i: int, step: int) -> None:
        x = self.x[i].detach().clone()
        if self.taken[i] % self.every == 0:
            self.x[i].data = x - self.alpha * (x - self.center)
            self.center = self.center + self.alpha * (x - self.center)
            self.exchanges += 1
        self.local_step(i, gradient(x, step))

    def finish(self, i: int) -> None:
        """The center moves once more."""
        if self.taken[i]:
            self.center = self.center + self.alpha * (self.x[i].detach() - self.center)
            self.exchanges += 1


class LocalSGD(Reference):
    """Local steps from the center, whose optimizer takes each worker's share of the change."""

    def __init__(self, *args: Any, outer: dict[str, Any] | None):
        super().__init__(*args)
        self.moved = Parameter(self.center)
        self.outer = torch.optim.SGD([self.moved], **(outer or {"lr": 1.0}))
        self.starts = [self.center.clone() for _ in self.x]

    def step(self, i: int, step: int) -> None:
        self.local_step(i, gradient(self.x[i], step))
        if self.taken[i] % self.every == 0:
            self.exchange(i)
            self.x[i].data = self.starts[i].clone()

    def exchange(self, i: int) -> None:
        self.moved.grad = (self.starts[i] - self.x[i].detach()) / WORKERS
        self.outer.step()
        self.starts[i] = self.center = self.moved.detach().clone()
        self.exchanges += 1

    def finish(self, i: int) -> None:
        """The last period may have fewer steps."""
        if self.taken[i] % self.every != 0:
            self.exchange(i)


def workers_of(optimizer: Any) -> list[Any]:
    """Workers of a newly shared optimizer."""
    optimizer.share_memory(workers=WORKERS)
    return [thread_clone((optimizer,))[0] for _ in range(WORKERS)]


def compare(optimizer: Any, reference: Any, steps: int = 60) -> None:
    """Step by step the same replicas, and at the end the same center."""
    workers = workers_of(optimizer)
    for step, i in enumerate(script(steps)):
        (x,) = params_of(workers[i])
        x.grad = gradient(x, step)
        workers[i].step()
        reference.step(i, step)
        torch.testing.assert_close(x.detach(), reference.x[i].detach(), rtol=1e-9, atol=1e-10)
    for i, worker in enumerate(workers):
        (x,) = params_of(worker)
        before = x.detach().clone()
        for _ in range(2):  # what is finished stays so
            worker.finish()
        reference.finish(i)
        assert torch.equal(x.detach(), before)
    ledger = optimizer.ledger()
    assert ledger.pushes == ledger.version == reference.exchanges > steps / 10
    optimizer.pull()
    (x,) = params_of(optimizer)
    torch.testing.assert_close(x.detach(), reference.center, rtol=1e-9, atol=1e-10)


def start_of() -> Tensor:
    (start,) = draw(((5, 3),), torch.float64)
    return start.t().contiguous().t()  # stored by columns


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize(("every", "alpha"), [(1, 0.4), (3, None)])
def test_elastic_averaging(sync: str, name: str, every: int, alpha: float | None) -> None:
    start, local = start_of(), LOCAL[name]
    optimizer = ElasticAveraging(local([Parameter(start.clone())]), every, alpha, sync=sync)
    reference = EASGD(start, local, every, alpha=0.9 / WORKERS if alpha is None else alpha)
    compare(optimizer, reference)


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize(("every", "outer"), [(1, None), (4, None), (3, NESTEROV)])
def test_local_steps(sync: str, name: str, every: int, outer: dict[str, Any] | None) -> None:
    start, local = start_of(), LOCAL[name]
    make = functools.partial(asyncopt.SGD, **outer) if outer else None
    optimizer = LocalSteps(local([Parameter(start.clone())]), every, make, sync=sync)
    compare(optimizer, LocalSGD(start, local, every, outer=outer))


def test_a_worker_counts_its_own_steps() -> None:
    """Steps that the optimizer took before it was shared do not count."""
    for optimizer, pushes in zip(both(), ([1, 1], [0, 1]), strict=True):
        params_of(optimizer)[0].grad = torch.ones(3)
        optimizer.step()
        first = workers_of(optimizer)[0]
        params_of(first)[0].grad = torch.ones(3)
        for expected in pushes:
            first.step()
            assert optimizer.ledger().pushes == expected


def test_staleness_of_an_exchange_is_counted_in_rounds() -> None:
    """Exchanges of the others while a worker took its local steps."""
    optimizer = LocalSteps(torch.optim.SGD([Parameter(torch.zeros(2))], lr=1.0), every=2)
    first, second, _ = workers_of(optimizer)
    for worker, steps in ((second, 1), (first, 6), (second, 1)):
        for _ in range(steps):
            params_of(worker)[0].grad = torch.ones(2)
            worker.step()
    (w,) = (w for w in optimizer.ledger().workers if w.pushes == 1)
    assert w.staleness.total == 3


def recipe(workers: int) -> Callable[..., Any]:
    """The outer optimizer that the documentation of `LocalSteps` gives for DiLoCo."""
    lines = (LocalSteps.__doc__ or "").splitlines()
    first = next(i for i, line in enumerate(lines) if "0.9 ** (1 / w)" in line)
    names: dict[str, Any] = {"w": workers, "functools": functools, "asyncopt": asyncopt}
    exec(textwrap.dedent("\n".join(lines[first : first + 3])), names)
    return names["outer"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_diloco_with_any_number_of_workers(workers: int) -> None:
    """Equals serial DiLoCo after a round of steady progress, and is near it on the way."""
    theirs = Parameter(torch.zeros(2, dtype=torch.float64))
    outer = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    local = torch.optim.SGD([Parameter(torch.zeros(2, dtype=torch.float64))], lr=0.5)
    optimizer = LocalSteps(local, 2, recipe(workers), sync="mutex").share_memory(workers)
    every = [thread_clone((optimizer,))[0] for _ in range(workers)]
    moved = []
    for _ in range(200):
        theirs.grad = torch.ones_like(theirs)  # two steps of 0.5, downhill
        outer.step()
        for worker in every * 2:
            params_of(worker)[0].grad = torch.ones(2, dtype=torch.float64)
            worker.step()
        optimizer.pull()
        moved.append((params_of(optimizer)[0].detach().clone(), theirs.detach().clone()))
    (before, _), (after, _) = moved[-2:]
    assert (before - after).tolist() == pytest.approx([7.0] * 2, rel=1e-6)
    far = max(float((ours - serial).abs().max()) for ours, serial in moved)
    assert far < 1.5 * 7.0  # of 1,400: Nesterov's look ahead is by an exchange, not by a round


# --- As an optimizer --------------------------------------------------------------------------


def both() -> list[Any]:
    return [
        make(torch.optim.Adam([Parameter(torch.ones(3))], lr=0.1), every=2)
        for make in (ElasticAveraging, LocalSteps)
    ]


def test_alone_it_is_the_local_optimizer() -> None:
    for optimizer in both():
        expected = Parameter(torch.ones(3))
        adam = torch.optim.Adam([expected], lr=0.1)
        (param,) = params_of(optimizer)
        scheduler, other = (torch.optim.lr_scheduler.StepLR(o, 2) for o in (optimizer, adam))
        assert optimizer.step(lambda: 3.5) == 3.5
        adam.step()
        for step in range(6):
            optimizer.zero_grad()
            adam.zero_grad()
            assert param.grad is None
            (expected * (step + 1)).sum().backward()
            (param * (step + 1)).sum().backward()
            assert optimizer.step() is None
            adam.step()
            scheduler.step()
            other.step()
        assert torch.equal(param, expected)
        assert optimizer.param_groups[0]["lr"] == adam.param_groups[0]["lr"] < 0.1
        assert optimizer.state is optimizer.optimizer.state
        assert repr(optimizer).splitlines()[1:] == repr(adam).splitlines()[1:]
        assert optimizer.store is None
        assert optimizer.ledger().pushes == 0
        optimizer.pull()


def test_copies_are_private() -> None:
    """A copy of a shared optimizer shares nothing; it can be shared again."""
    for optimizer in both():
        optimizer.share_memory(workers=1)
        (param,) = params_of(optimizer)
        for _ in range(3):
            param.grad = torch.ones(3)
            optimizer.step()
        for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert type(copied) is type(optimizer)
            assert copied.store is None
            (own,) = params_of(copied)
            assert torch.equal(own, param)
            assert own.data_ptr() != param.data_ptr()
            for p in (own, param):
                p.grad = torch.ones(3)
            copied.share_memory(workers=1)
            copied.step()
        assert optimizer.ledger().pushes == (2 if type(optimizer) is ElasticAveraging else 1)


def test_state_dict() -> None:
    """Loads into an equal optimizer; the local optimizer's dict alone loads as well."""
    make = functools.partial(asyncopt.SGD, lr=0.5, momentum=0.9)
    pair = [
        LocalSteps(torch.optim.Adam([Parameter(torch.ones(3))], lr=0.1), 1, make) for _ in range(2)
    ]
    first, second = pair
    first.share_memory(workers=1)
    for _ in range(3):
        params_of(first)[0].grad = torch.ones(3)
        first.step()
    saved = copy.deepcopy(first.state_dict())
    params_of(second)[0].data.copy_(params_of(first)[0])
    second.load_state_dict(saved)
    second.share_memory(workers=1)
    for optimizer in pair:
        params_of(optimizer)[0].grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(params_of(first)[0], params_of(second)[0])
    plain = torch.optim.Adam([Parameter(torch.ones(3))])
    plain.load_state_dict({k: v for k, v in saved.items() if k != "center"})
    second.load_state_dict(plain.state_dict())
    assert second.param_groups[0]["lr"] == 0.1
    assert second.param_groups is second.optimizer.param_groups


def test_a_state_dict_that_is_refused_changes_nothing() -> None:
    """Nothing changes even if one of its two halves fits."""
    params = [Parameter(torch.ones(3))]
    optimizer = LocalSteps(torch.optim.Adam(params, lr=0.1), every=2)
    params[0].grad = torch.ones(3)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    after = copy.deepcopy(optimizer.state_dict())
    halves: tuple[dict[str, Any], ...] = (
        {"center": {"state": {}, "param_groups": []}},
        {"param_groups": []},
    )
    for half in halves:
        with pytest.raises(ValueError, match=r"state|group"):
            optimizer.load_state_dict({**copy.deepcopy(before), **half})
        assert str(optimizer.state_dict()) == str(after)


def test_before_push() -> None:
    """Called first thing in an exchange; if it raises, the center has not moved."""
    for optimizer, steps, exchanges in zip(both(), (6, 5), (3, 2), strict=True):
        optimizer.share_memory(workers=1)
        (param,) = params_of(optimizer)
        calls: list[int] = []
        optimizer.before_push = functools.partial(calls.append, 1)
        for _ in range(steps):
            param.grad = torch.ones(3)
            optimizer.step()
        assert len(calls) == optimizer.ledger().pushes == exchanges
        assert copy.deepcopy(optimizer).before_push is None
        optimizer.before_push = refuse
        before = [p.clone() for p in params_of(optimizer.center)]
        with pytest.raises(asyncopt.RunTimeout, match="not now"):
            optimizer.step()
        assert optimizer.ledger().pushes == exchanges
        assert_equal(params_of(optimizer.center), before)


def refuse() -> None:
    raise asyncopt.RunTimeout("not now")


# --- Refusals ---------------------------------------------------------------------------------


make_local: Any = LocalSteps  # takes what its types do not
make_elastic: Any = ElasticAveraging


def local() -> Any:
    return torch.optim.SGD([Parameter(torch.ones(3))], lr=0.1)


def shared() -> Any:
    return asyncopt.SGD([Parameter(torch.ones(3))]).share_memory(workers=1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: make_local([torch.ones(3)], 2), TypeError, "optimizer: expected .* got list"),
        (lambda: LocalSteps(LocalSteps(local(), 2), 2), TypeError, "optimizer: .* got LocalSteps"),
        (lambda: LocalSteps(shared(), 2), ValueError, "optimizer: expected one that is not shared"),
        (lambda: LocalSteps(local(), 0), ValueError, "every: expected a number of steps >= 1"),
        (lambda: make_local(local(), 2.0), ValueError, "every: expected .* got 2.0"),
        (lambda: LocalSteps(local(), True), ValueError, "every: expected .* got True"),
        (lambda: ElasticAveraging(local(), 2, 0), ValueError, "alpha: expected .* got 0"),
        (lambda: ElasticAveraging(local(), 2, 1.5), ValueError, "alpha: expected .* got 1.5"),
        (lambda: make_elastic(local(), 2, "0.5"), ValueError, "alpha: expected .* got '0.5'"),
        (lambda: ElasticAveraging(local(), 2, sync="luck"), ValueError, "sync: expected one of"),
        (lambda: make_local(local(), 2, local()), TypeError, "outer: expected a class .* got SGD"),
        (lambda: make_local(local(), 2, torch.optim.SGD), TypeError, "outer: expected a class"),
        (
            lambda: make_local(local(), 2, functools.partial(torch.optim.SGD, lr=1.0)),
            TypeError,
            "outer: expected a class",
        ),
        (
            lambda: make_local(local(), 2, lambda params, sync: torch.optim.SGD(params)),
            TypeError,
            "outer: expected a function",
        ),
        (
            lambda: make_local(local(), 2, lambda params, sync: asyncopt.SGD([torch.ones(3)])),
            TypeError,
            "outer: expected a function",
        ),
        (
            lambda: LocalSteps(torch.optim.SGD([torch.ones(3, dtype=torch.float16)]), 2),
            ValueError,
            r"params\[0\]: expected float32",
        ),
    ],
)
def test_refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_refused_later() -> None:
    for optimizer in both():
        with pytest.raises(RuntimeError, match="add_param_group: "):
            optimizer.add_param_group({"params": [Parameter(torch.ones(1))]})
        with pytest.raises(ValueError, match="workers: expected"):
            optimizer.share_memory(workers=0)
        (param,) = params_of(optimizer)
        param.data = param.data.double()
        with pytest.raises(ValueError, match=r"params\[0\]: expected torch.float32, shape \(3,\)"):
            optimizer.share_memory(workers=1)
        param.data = param.data.float()
        assert optimizer.store is None
        optimizer.share_memory(workers=1)
        with pytest.raises(RuntimeError, match="share_memory: expected"):
            optimizer.share_memory(workers=1)
