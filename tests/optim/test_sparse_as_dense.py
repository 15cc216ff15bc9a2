"""`sparse_updates="dense"`: sparse gradients end as torch.optim with the same gradients, dense."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt.run.checkpoint import resume, save

from .twins import COMBINED, describe, ours, theirs

ROWS, WIDTH = 40, 5
IN_PLACE = tuple(name for name in asyncopt.syncs() if name not in ("seqlock", "leashed"))
RTOL = {torch.float32: 2e-5, torch.float64: 1e-11}


def sparse(rows: Tensor, values: Tensor, like: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows[None], values, like.shape, check_invariants=False)


class Twins:
    """A table trained by torch with dense gradients, and by us with sparse ones."""

    def __init__(
        self, rule: str, options: dict[str, Any], dtype: torch.dtype, rows: int = ROWS, **more: Any
    ) -> None:
        self.generator = torch.Generator().manual_seed(1)
        start = torch.randn(rows, WIDTH, dtype=dtype, generator=self.generator)
        self.a, self.b = Parameter(start.clone()), Parameter(start.clone())
        self.torch = theirs(rule)([self.a], **options)
        self.ours = ours(rule)([self.b], **options, sparse_updates="dense", **more)
        self.lr = float(self.torch.param_groups[0]["lr"])
        self.rtol = RTOL[dtype]

    def step(self, t: int, named: int = 3) -> None:
        rows = torch.randint(0, len(self.a), (named,), generator=self.generator)
        values = torch.randn(named, WIDTH, dtype=self.a.dtype, generator=self.generator)
        self.ours.catch_up(self.b, rows)
        self.check_close(self.b[rows], self.a[rows])
        self.a.grad = torch.zeros_like(self.a).index_add_(0, rows, values)
        self.b.grad = sparse(rows, values, self.b)
        self.torch.step()
        self.ours.step()
        for each in (self.torch, self.ours):  # as a scheduler does
            each.param_groups[0]["lr"] = self.lr * (1 + 0.1 * (7 * t % 5))

    def check_close(self, actual: Tensor, expected: Tensor) -> None:
        atol = self.rtol * max(1.0, float(self.a.detach().abs().max()))
        torch.testing.assert_close(actual, expected, rtol=0, atol=atol)

    def check(self) -> None:
        state = self.ours.state_dict()["state"]  # catches up
        self.check_close(self.b, self.a)
        for name, value in self.torch.state_dict()["state"].get(0, {}).items():
            if value is not None and value.dim() == 2:
                self.check_close(state[0][name], value)


@pytest.mark.slow
@pytest.mark.parametrize("case", COMBINED, ids=[describe(*case) for case in COMBINED])
def test_equals_torch_with_dense_gradients(
    case: tuple[str, dict[str, Any]], dtype: torch.dtype
) -> None:
    twins = Twins(*case, dtype)
    for t in range(60):
        twins.step(t)
    twins.check()


DECAYED: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"lr": 0.01, "weight_decay": 0.1},  # never linear: each missed step is taken
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.9},
}


@pytest.mark.parametrize("sync", IN_PLACE)
@pytest.mark.parametrize("kind", DECAYED)
def test_every_sync_in_place(kind: str, sync: str) -> None:
    twins = Twins(kind, DECAYED[kind], torch.float64, sync=sync)
    twins.ours.share_memory(workers=1)
    for t in range(30):
        twins.step(t)
    twins.check()


@pytest.mark.parametrize("kind", DECAYED)
def test_rows_that_rest_for_long(kind: str) -> None:
    """Longer than Adam's momentum lasts, and than the steps that are remembered."""
    twins = Twins(kind, DECAYED[kind], torch.float64, rows=4)
    for t in range(700):
        twins.step(t, named=0 if 20 <= t < 650 else 1)
    twins.check()


@settings(max_examples=25, deadline=None)
@example(kind="Adam", steps=["rule", "catch up", "sparse"])  # decay has moved rows at rest
@given(
    kind=st.sampled_from(sorted(DECAYED)),
    steps=st.lists(
        st.sampled_from(["sparse", "dense", "copy", "pickle", "state", "catch up", "rule"]),
        max_size=25,
    ),
)
def test_any_order_of_what_can_happen(kind: str, steps: list[str]) -> None:
    twins = Twins(kind, DECAYED[kind], torch.float64, rows=12)
    for t, what in enumerate(steps):
        twins.step(t)
        if what == "dense":
            twins.a.grad = torch.randn(
                twins.a.shape, dtype=torch.float64, generator=twins.generator
            )
            twins.b.grad = twins.a.grad.clone()
            twins.torch.step()
            twins.ours.step()
        elif what == "copy":
            twins.ours = copy.deepcopy(twins.ours)
            (twins.b,) = twins.ours.param_groups[0]["params"]
        elif what == "pickle":
            twins.ours, twins.b = pickle.loads(pickle.dumps((twins.ours, twins.b)))
        elif what == "state":
            state = twins.ours.state_dict()
            twins.ours = type(twins.ours)([twins.b], lr=1.0, sparse_updates="dense")
            twins.ours.load_state_dict(state)
        elif what == "catch up":
            twins.ours.catch_up()
        elif what == "rule" and kind == "Adam":
            for each in (twins.torch, twins.ours):  # coupled decay comes and goes
                group = each.param_groups[0]
                group["weight_decay"] = 0.1 - group["weight_decay"]
    twins.check()


def test_torch_takes_the_state(rule: str) -> None:
    twins = Twins(rule, {}, torch.float32)
    for t in range(5):
        twins.step(t)
    state = twins.ours.state_dict()
    assert all("journal" not in each for each in state["state"].values())
    twins.torch.load_state_dict(state)


def test_step_applies_pending_updates_of_rows() -> None:
    p = Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer = asyncopt.SGD([p], lr=0.1, weight_decay=0.5, sparse_updates="dense")
    for row in (0, 0, 1):
        p.grad = sparse(torch.tensor([row]), torch.zeros(1, 2, dtype=torch.float64), p)
        optimizer.step()
    assert p[:2, 0].tolist() == pytest.approx([0.95**2, 0.95**3])
    optimizer.catch_up()
    assert p[:, 0].tolist() == pytest.approx([0.95**3] * 3)


def test_bfloat16_decays_as_it_should() -> None:
    p = Parameter(torch.ones(16, 512, dtype=torch.bfloat16))
    optimizer = asyncopt.SGD([p], lr=0.1, weight_decay=0.1, sparse_updates="dense")
    for _ in range(50):
        p.grad = sparse(torch.tensor([0]), torch.zeros(1, 512, dtype=torch.bfloat16), p)
        optimizer.step()
    optimizer.catch_up()
    assert p.float().mean(1).tolist() == pytest.approx([0.99**50] * 16, rel=5e-3)


@pytest.mark.parametrize("cls", [asyncopt.Adagrad, asyncopt.Adam, asyncopt.AdamW])
def test_row_wise_rules_equal_their_own_dense_steps(cls: Any) -> None:
    options: dict[str, Any] = {"rowwise": True, "lr": 0.01, "weight_decay": 0.1}
    a, b = (Parameter(torch.linspace(-1, 1, 60, dtype=torch.float64).view(12, 5)) for _ in "ab")
    dense, owing = cls([a], **options), cls([b], sparse_updates="dense", **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        rows = torch.randint(0, 12, (2,), generator=generator)
        values = torch.randn(2, 5, dtype=torch.float64, generator=generator)
        a.grad = torch.zeros_like(a).index_add_(0, rows, values)
        b.grad = sparse(rows, values, b)
        owing.catch_up(b, rows)
        dense.step()
        owing.step()
    owing.catch_up()
    torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bag", [False, True])
def test_before_each_forward_pass(bag: bool) -> None:
    kind = torch.nn.EmbeddingBag if bag else torch.nn.Embedding
    layers: list[Any] = [kind(ROWS, WIDTH, sparse=is_sparse) for is_sparse in (False, True)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers: list[Any] = [
        torch.optim.AdamW(layers[0].parameters(), lr=0.01, weight_decay=0.1),
        asyncopt.AdamW(layers[1].parameters(), lr=0.01, weight_decay=0.1, sparse_updates="dense"),
    ]
    handle = optimizers[1].catch_up_before(layers[1])
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        rows = torch.randint(0, ROWS, (2, 3), generator=generator)
        found = [layer(input=rows) for layer in layers]
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
        for optimizer, each in zip(optimizers, found, strict=True):
            optimizer.zero_grad()
            each.square().sum().backward()
            optimizer.step()
    _, copied = copy.deepcopy((optimizers[1], layers[1]))
    pickle.loads(pickle.dumps((optimizers[1], layers[1])))
    every = torch.arange(ROWS)[:, None] if bag else torch.arange(ROWS)
    torch.testing.assert_close(copied(every), layers[0](every), rtol=1e-5, atol=1e-5)
    handle.remove()
    assert not layers[1]._forward_pre_hooks


def test_two_weighted_lookups_before_one_backward_pass() -> None:
    """For the gradients of its weights, a lookup keeps the table as it was."""
    layers = [torch.nn.EmbeddingBag(ROWS, WIDTH, mode="sum", sparse=each) for each in (False, True)]
    layers[1].load_state_dict(layers[0].state_dict())
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    optimizers: list[Any] = [
        torch.optim.AdamW(layers[0].parameters(), **options),
        asyncopt.AdamW(layers[1].parameters(), sparse_updates="dense", **options),
    ]
    optimizers[1].catch_up_before(layers[1])
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        rows = torch.randint(0, ROWS, (2, 2, 3), generator=generator)
        slopes = []
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            weights = torch.ones(2, 3, requires_grad=True)
            found = [layer(some, per_sample_weights=weights) for some in rows]
            torch.stack(found).square().sum().backward()
            optimizer.step()
            slopes.append(weights.grad)
        torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("kind", DECAYED)
def test_goes_on_from_a_checkpoint(tmp_path: Path, kind: str, shared: bool) -> None:
    """Bit for bit, with rows that had pending updates when it was saved."""
    unbroken, resumed = (Twins(kind, DECAYED[kind], torch.float32) for _ in range(2))
    if shared:
        unbroken.ours.share_memory(workers=1)
        resumed.ours.share_memory(workers=1)
    for t in range(30):
        unbroken.step(t)
    save(unbroken.ours, tmp_path)
    found = resume(tmp_path)
    assert found is not None
    found.restore(resumed.ours)
    resumed.a, resumed.torch = copy.deepcopy((unbroken.a, unbroken.torch))
    resumed.generator.set_state(unbroken.generator.get_state())
    for each in (unbroken, resumed):
        for t in range(30, 60):
            each.step(t)
        each.check()
    assert torch.equal(resumed.b, unbroken.b)
    for name, value in unbroken.ours.state[unbroken.b].items():
        assert torch.equal(resumed.ours.state[resumed.b][name], value)


def decay(worker: Any, optimizer: Any, pushes: int) -> None:
    (p,) = optimizer.param_groups[0]["params"]
    generator = torch.Generator().manual_seed(worker.rank)
    for i in range(pushes):
        rows = torch.randint(0, len(p), (2,), generator=generator)
        p.grad = sparse(rows, torch.zeros(2, WIDTH, dtype=p.dtype), p)
        optimizer.step()
        if i % 10 == 0:
            optimizer.catch_up()
        elif i % 5 == 0:
            optimizer.catch_up(p, rows.flip(0))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_two_workers_apply_each_pending_update_once(mode: str) -> None:
    p = Parameter(torch.ones(6, WIDTH, dtype=torch.float64))
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.01, "sparse_updates": "dense"}
    optimizer = asyncopt.SGD([p], sync="atomic", **options)
    asyncopt.launch(decay, args=(optimizer, 500), workers=2, mode=mode)
    optimizer.catch_up()
    torch.testing.assert_close(p.detach(), torch.full_like(p, 0.999**1000), rtol=1e-10, atol=0)


def train(worker: Any, table: Any, optimizer: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        optimizer.zero_grad()
        table(torch.randint(0, ROWS, (3,), generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_before_each_forward_pass_of_a_worker(mode: str) -> None:
    """The copy of an embedding that a worker gets catches up with the worker's optimizer."""
    dense = torch.nn.Embedding(ROWS, WIDTH, dtype=torch.float64)
    table = torch.nn.Embedding(ROWS, WIDTH, dtype=torch.float64, sparse=True)
    table.load_state_dict(dense.state_dict())
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    train(None, dense, torch.optim.AdamW(dense.parameters(), **options))
    optimizer = asyncopt.AdamW(table.parameters(), sparse_updates="dense", **options)
    optimizer.catch_up_before(table)
    asyncopt.launch(train, args=(table, optimizer), workers=1, mode=mode)
    optimizer.catch_up()
    torch.testing.assert_close(table.weight, dense.weight, rtol=1e-10, atol=1e-12)


def test_a_table_in_other_memory() -> None:
    p = Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer = asyncopt.SGD([p], lr=0.1, weight_decay=0.5, sparse_updates="dense")
    for rows in (3, 5, 2):
        p.data = torch.ones(rows, 2, dtype=torch.float64)
        optimizer.catch_up(p, torch.arange(rows))  # another table has no pending updates
        p.grad = sparse(torch.tensor([1]), torch.zeros(1, 2, dtype=torch.float64), p)
        optimizer.step()
        p.data = p.data.clone()
        optimizer.catch_up()
        assert p[:, 0].tolist() == pytest.approx([0.95] * rows)


def test_dense_gradients_and_rules_without_pending_updates_keep_no_counts() -> None:
    cases: tuple[tuple[dict[str, Any], Any], ...] = (
        ({"weight_decay": 0.1}, lambda p: torch.ones_like(p)),
        ({}, lambda p: sparse(torch.tensor([1]), torch.ones(1, WIDTH), p)),
    )
    for options, grad in cases:
        p = Parameter(torch.ones(ROWS, WIDTH))
        optimizer = asyncopt.SGD([p], lr=0.1, sparse_updates="dense", **options)
        p.grad = grad(p)
        optimizer.step()
        started, finished = optimizer.state[p]["journal"][:16].view(torch.int64).tolist()
        assert (started, finished) == (0, 0)


def test_no_journal_by_default() -> None:
    p = Parameter(torch.ones(3, 2))
    optimizer = asyncopt.Adam([p])
    p.grad = torch.ones(3, 2)
    optimizer.step()
    optimizer.catch_up(p, torch.tensor([1]))
    assert set(optimizer.state[p]) == {"exp_avg", "exp_avg_sq", "step"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "word": ({"sparse_updates": "lazy"}, "sparse_updates: expected 'touched' or 'dense'"),
    "seqlock": ({"sync": "seqlock"}, "sparse_updates: expected 'touched' under sync='seqlock'"),
    "leashed": ({"sync": "leashed"}, "sparse_updates: expected 'touched' under sync='leashed'"),
    "delay": ({"delay_compensation": 0.1}, "delay_compensation: expected None"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_options_that_are_refused(kind: str) -> None:
    options, text = REFUSED[kind]
    with pytest.raises(ValueError, match=text):
        asyncopt.SGD([Parameter(torch.ones(2, 2))], **{"sparse_updates": "dense", **options})


def test_arguments_that_are_refused() -> None:
    p = Parameter(torch.ones(3, 2))
    optimizer = asyncopt.SGD([p], weight_decay=0.1, sparse_updates="dense")
    for args, text in (
        ((None, torch.tensor([0])), "param: expected the parameter"),
        ((Parameter(torch.ones(3, 2)), torch.tensor([0])), "param: expected one of"),
        ((p, torch.tensor([0.0])), "rows: expected torch.int64 or torch.int32"),
        ((p, torch.tensor([3])), r"rows: expected indices in \[0, 3\), got 3"),
    ):
        with pytest.raises(ValueError, match=text):
            optimizer.catch_up(*args)
    with pytest.raises(TypeError, match=r"module: expected nn\.Embedding or nn\.EmbeddingBag"):
        optimizer.catch_up_before(torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match="expected sparse_updates='touched'"):
        asyncopt.ElasticAveraging(optimizer, every=2)
