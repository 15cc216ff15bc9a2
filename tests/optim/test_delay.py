"""Late pushes: smaller steps and corrected gradients, against the papers' formulas."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt.optim import thread_clone

from .jobs import gradient_of, params_of, push_in_turns
from .twins import SYNCS, bytes_of, draw, ours, theirs

WORKERS = 3
SLOWED = tuple(rule for rule in asyncopt.rules() if rule != "ASGD")
COMPENSATED = tuple(sync for sync in SYNCS if sync != "leashed")
EPS = 1e-7


def events(count: int, seed: int = 5) -> Iterator[tuple[int, bool]]:
    """(worker, whether it pulls again before its gradient) in an order with long delays."""
    rng = random.Random(seed)
    for _ in range(count):
        yield min(int(rng.expovariate(1.0)), WORKERS - 1), rng.random() < 0.3


def workers_of(optimizer: Any) -> list[Any]:
    """The shared optimizer and other workers of its store."""
    optimizer.share_memory(workers=WORKERS - 1)
    return [optimizer, *(thread_clone((optimizer,))[0] for _ in range(WORKERS - 1))]


def newest(optimizer: Any) -> Tensor:
    optimizer.pull()
    return params_of(optimizer)[0].detach().clone()


# --- The hook and staleness --------------------------------------------------------------------


@pytest.mark.parametrize("sync", SYNCS)
def test_before_push(sync: str) -> None:
    """Once per push, before anything; no copy has it."""
    calls: list[int] = []
    optimizer = asyncopt.SGD([Parameter(torch.zeros(4, 2))], lr=1.0, sync=sync)
    optimizer.before_push = lambda: calls.append(1)
    (param,) = params_of(optimizer)
    param.grad = torch.ones(4, 2)
    optimizer.step()
    assert calls == [1]  # alone
    optimizer.share_memory(workers=1)
    optimizer.step()
    optimizer.step_rows(param, torch.tensor([1]), torch.ones(1, 2))
    optimizer.step_rows(param, torch.empty(0, dtype=torch.int64), torch.ones(0, 2))  # no push
    assert len(calls) == 3
    (clone,) = thread_clone((optimizer,))
    assert clone.before_push is None
    assert "before_push" not in optimizer.state_dict()

    def refuse() -> None:
        raise asyncopt.RunTimeout("not now")

    optimizer.before_push = refuse
    before = bytes_of(optimizer)
    with pytest.raises(asyncopt.RunTimeout, match="not now"):
        optimizer.step()
    with pytest.raises(asyncopt.RunTimeout, match="not now"):
        optimizer.step_rows(param, torch.tensor([1]), torch.ones(1, 2))
    assert bytes_of(optimizer) == before
    assert optimizer.ledger().pushes == 2


@pytest.mark.parametrize("sync", SYNCS)
def test_staleness_counts_from_the_pull(sync: str) -> None:
    """In place as on a replica; looking at the state is no pull in place."""
    first, second, _ = workers_of(asyncopt.SGD([Parameter(torch.zeros(3))], lr=1.0, sync=sync))
    for optimizer in (first, second):
        params_of(optimizer)[0].grad = torch.ones(3)
    for _ in range(4):
        first.step()
    second.pull()
    first.step()
    if not second.is_replica:
        second.state_dict()
    second.step()
    (w,) = (w for w in first.ledger().workers if w.slot == 1)
    assert w.staleness.total == 1


# --- The step size ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", SLOWED)
@pytest.mark.parametrize("sync", SYNCS)
def test_staleness_lr(rule: str, sync: str) -> None:
    """Each push is torch's with lr / (1 + versions since the worker's last pull or push)."""
    (start,) = draw(((7, 3),), torch.float64)
    reference = Parameter(start.clone())
    expected = theirs(rule)([reference], lr=0.1)
    optimizers = workers_of(
        ours(rule)([Parameter(start.clone())], lr=0.1, sync=sync, staleness_lr="inverse")
    )
    pulled = [0] * WORKERS
    stale = 0
    for version, (rank, again) in enumerate(events(40)):
        if again:
            optimizers[rank].pull()
            pulled[rank] = version
        staleness = version - pulled[rank]
        (gradient,) = draw(((7, 3),), torch.float64, seed=version)
        expected.param_groups[0]["lr"] = 0.1 / (1 + staleness)
        reference.grad = gradient
        expected.step()
        params_of(optimizers[rank])[0].grad = gradient.clone()
        optimizers[rank].step()
        pulled[rank] = version + 1
        stale += staleness
    ledger = optimizers[0].ledger()
    assert stale == ledger.staleness.total > 40
    torch.testing.assert_close(newest(optimizers[0]), reference.detach(), rtol=1e-11, atol=1e-12)
    assert optimizers[0].param_groups[0]["lr"] == 0.1


def test_staleness_lr_of_rows_and_groups() -> None:
    """Every group by its own rate, which may be a tensor; pushes of rows as well."""
    params = [Parameter(torch.zeros(3, 1)), Parameter(torch.zeros(1))]
    groups = [{"params": [params[0]], "lr": torch.tensor(1.0)}, {"params": [params[1]], "lr": 0.5}]
    first, second, _ = workers_of(asyncopt.SGD(groups, sync="mutex", staleness_lr="inverse"))
    for _ in range(3):
        first.step_rows(params[0], torch.tensor([0]), torch.ones(1, 1))
    a, b = params_of(second)
    second.step_rows(a, torch.tensor([2]), torch.ones(1, 1))
    assert params[0].flatten().tolist() == [-3, 0, -0.25]
    first.pull()
    for p in (a, b):
        p.grad = torch.ones_like(p)
    for _ in range(2):
        first.step_rows(params[0], torch.tensor([1]), torch.ones(1, 1))
    second.step()
    assert b.item() == pytest.approx(-0.5 / 3)


@pytest.mark.parametrize("sync", ["mutex", "seqlock"])
def test_a_skipped_push_is_no_pull_in_place(sync: str) -> None:
    """A replica's step ends with a pull in any case."""
    optimizer = asyncopt.SGD([Parameter(torch.zeros(1))], lr=1.0, sync=sync, staleness_lr="inverse")
    first, second, _ = workers_of(optimizer)
    params_of(first)[0].grad = torch.ones(1)
    for _ in range(3):
        first.step()
    params_of(second)[0].grad = torch.full((1,), torch.nan)
    with pytest.warns(RuntimeWarning, match="skipped"):
        second.step()
    params_of(second)[0].grad = torch.ones(1)
    second.step()
    assert newest(first).item() == (-4 if second.is_replica else -3.25)


def test_staleness_options_change_nothing_without_a_store(rule: str) -> None:
    """Without a store the options change nothing, bit for bit."""
    if rule == "ASGD":
        with pytest.raises(ValueError, match="staleness_lr: expected None"):
            asyncopt.ASGD([Parameter(torch.ones(3))], staleness_lr="inverse")
        extra: dict[str, Any] = {"delay_compensation": 2.0}
    else:
        extra = {"delay_compensation": 2.0, "staleness_lr": "inverse"}
    (start,) = draw(((9,),))
    pair = [ours(rule)([Parameter(start.clone())], **options) for options in ({}, extra)]
    for optimizer in pair:
        for step in range(5):
            (params_of(optimizer)[0].grad,) = draw(((9,),), seed=step)
            optimizer.step()
    assert bytes_of(pair[0]) == bytes_of(pair[1])


# --- The gradient -----------------------------------------------------------------------------


class DCASGD:
    """The server of arXiv 1609.08326 in float64, with torch's rule for what it does with g."""

    def __init__(
        self, rule: str, start: Tensor, lam: float, m: float | None, **options: Any
    ) -> None:
        self.w = Parameter(start.clone())
        self.backups = [start.clone() for _ in range(WORKERS)]
        self.mean_squares = [torch.zeros_like(start) for _ in range(WORKERS)]
        self.lam, self.m = lam, m
        self.rule = theirs(rule)([self.w], **options)

    def pull(self, worker: int) -> Tensor:
        self.backups[worker] = self.w.detach().clone()
        return self.backups[worker]

    def push(self, worker: int, g: Tensor) -> None:
        """`g`: gradient of the minimized function."""
        lam: Any = self.lam
        if self.m is not None:
            self.mean_squares[worker] = self.m * self.mean_squares[worker] + (1 - self.m) * g**2
            lam = self.lam / (self.mean_squares[worker] + EPS).sqrt()
        g = g + lam * g * g * (self.w.detach() - self.backups[worker])
        self.w.grad = -g if self.rule.defaults["maximize"] else g
        self.rule.step()


@pytest.mark.parametrize("sync", COMPENSATED)
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("SGD", {"lr": 0.05}),
        ("SGD", {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "maximize": True}),
        ("Adam", {"lr": 0.1}),
        ("ASGD", {"lr": 0.05}),
    ],
    ids=str,
)
@pytest.mark.parametrize("m", [None, 0.95])
def test_delay_compensation(rule: str, options: dict[str, Any], sync: str, m: float | None) -> None:
    """A sequence of pulls and late pushes, step by step as the server of the paper has it."""
    lam = 0.3
    (start,) = draw(((5, 3),), torch.float64)
    start = start.t().contiguous().t()  # stored by columns
    server = DCASGD(rule, start, lam, m, **options)
    plain = DCASGD(rule, start, 0.0, None, **options)
    strength = lam if m is None else (lam, m)
    optimizers = workers_of(
        ours(rule)([Parameter(start.clone())], **options, sync=sync, delay_compensation=strength)
    )
    seen = [start.clone() for _ in range(WORKERS)]
    for step, (rank, again) in enumerate(events(40)):
        if again:
            optimizers[rank].pull()
            seen[rank] = server.pull(rank)
            plain.pull(rank)
        gradient = gradient_of(seen[rank], step)
        server.push(rank, gradient)
        plain.push(rank, gradient)
        # With strides of its own.
        ascent = options.get("maximize", False)
        params_of(optimizers[rank])[0].grad = (-gradient if ascent else gradient).contiguous()
        optimizers[rank].step()
        seen[rank] = server.pull(rank)
        plain.pull(rank)
    actual = newest(optimizers[0])
    expected = server.w.detach()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)
    assert (expected - plain.w.detach()).abs().max() > 1e-3  # so that it is the correction we see


@pytest.mark.parametrize("is_sparse", [False, True], ids=["step_rows", "sparse"])
@pytest.mark.parametrize("m", [None, 0.5])
def test_delay_compensation_of_rows(m: float | None, is_sparse: bool) -> None:
    """Only the rows that are pushed are looked at, and only their mean squares move; a row that is
    named more than once has the sum of its gradients.
    """
    (start,) = draw(((6, 2),), torch.float64)
    server = DCASGD("SGD", start, 0.5, m, lr=0.1)
    strength = 0.5 if m is None else (0.5, m)
    optimizers = workers_of(
        asyncopt.SGD([Parameter(start.clone())], lr=0.1, sync="mutex", delay_compensation=strength)
    )
    for step, (rank, again) in enumerate(events(30)):
        if again:
            optimizers[rank].pull()
            server.pull(rank)
        rows = torch.tensor([step % 6, (step + 2) % 6, step % 6])
        (values,) = draw(((3, 2),), torch.float64, seed=step)
        whole = torch.zeros_like(start).index_add_(0, rows, values)
        means = server.mean_squares[rank]
        server.push(rank, whole)
        if m is not None:
            untouched = [r for r in range(6) if r not in rows]
            server.mean_squares[rank][untouched] = means[untouched]
        (param,) = params_of(optimizers[rank])
        if is_sparse:
            param.grad = torch.sparse_coo_tensor(
                rows[None], values, start.shape, check_invariants=True
            )
            optimizers[rank].step()
        else:
            optimizers[rank].step_rows(param, rows, values)
        server.pull(rank)
    torch.testing.assert_close(newest(optimizers[0]), server.w.detach(), rtol=1e-11, atol=1e-12)


def test_mean_squares_of_bfloat16_gradients_do_not_stall() -> None:
    """In bfloat16 a mean of ones from zero ends at 1/2 where m is 0.999."""
    param = Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = asyncopt.SGD([param], lr=0.0, sync="mutex", delay_compensation=(1.0, 0.999))
    optimizer.share_memory(workers=1)
    param.grad = torch.ones_like(param)
    for _ in range(2000):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 1.0
    param.data.add_(4)  # by somebody else
    optimizer.step()
    expected = 4 - (1 + 4 / (1 - 0.999**2001) ** 0.5)
    assert param.item() == pytest.approx(expected, abs=2**-5)  # a bfloat16 from 4 to 8


def test_delay_compensation_leaves_gradients_alone() -> None:
    """`.grad` stays what backward made; one that is missing or not finite is treated as ever."""
    params = [Parameter(torch.ones(3)), Parameter(torch.ones(2))]
    first, second, _ = workers_of(
        asyncopt.SGD(params, lr=1.0, sync="mutex", delay_compensation=1.0)
    )
    params[0].grad = torch.full((3,), 0.5)
    first.step()  # the second parameter has none
    late, _ = params_of(second)
    late.grad = torch.full((3,), 2.0)
    second.step()  # 2 + 2 * 2 * (0.5 - 1) = 0
    assert late.grad.tolist() == [2.0] * 3
    assert params[0].tolist() == [0.5] * 3
    assert params[1].tolist() == [1.0] * 2
    late.grad = torch.full((3,), float("inf"))
    with pytest.warns(RuntimeWarning, match="skipped"):
        second.step()
    assert params[0].tolist() == [0.5] * 3
    late.grad = torch.sparse_coo_tensor(
        torch.tensor([[3]]), torch.ones(1), (3,), check_invariants=False
    )
    with pytest.raises(ValueError, match=r"params\[0\]\.grad: expected row indices in \[0, 3\)"):
        second.step()


# --- Options ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["linear", "", True, 1.0, ["inverse"]], ids=repr)
def test_staleness_lr_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="staleness_lr: expected 'inverse' or None, got"):
        asyncopt.SGD([Parameter(torch.ones(1))], staleness_lr=bad)


@pytest.mark.parametrize(
    "bad",
    [-1.0, float("nan"), float("inf"), "1", (), (1.0, 1.0), (1.0, -0.1), (1.0, 0.5, 0.5), [1.0]],
    ids=repr,
)
def test_delay_compensation_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"delay_compensation: expected a strength >= 0 or.* got"):
        asyncopt.SGD([Parameter(torch.ones(1))], delay_compensation=bad)


def test_delay_compensation_refused_under_leashed() -> None:
    with pytest.raises(ValueError, match=r"delay_compensation: .*'leashed'; use 'seqlock'"):
        asyncopt.SGD([Parameter(torch.ones(1))], sync="leashed", delay_compensation=1.0)


# --- Processes --------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["atomic", "seqlock"])  # in place, and replicas
def test_workers(sync: str) -> None:
    """Two processes push in a fixed order; the options travel with the optimizer."""
    script = [0, 0, 0, 1, 0, 1, 1, 1, 0, 0]
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    param = Parameter(start.clone())
    optimizer = asyncopt.SGD(
        [param], lr=0.2, sync=sync, staleness_lr="inverse", delay_compensation=0.1
    )
    run = asyncopt.launch(push_in_turns, (optimizer, script), workers=2, timeout=240)
    w, pulled, version = start.clone(), [start.clone()] * 2, [0, 0]
    stale = 0
    for step, rank in enumerate(script):
        g = gradient_of(pulled[rank], step)
        staleness = step - version[rank]
        w = w - 0.2 / (1 + staleness) * (g + 0.1 * g * g * (w - pulled[rank]))
        pulled[rank], version[rank] = w, step + 1
        stale += staleness
    assert run.ledger.staleness.total == stale > 0
    torch.testing.assert_close(param.detach(), w, rtol=1e-12, atol=0)
