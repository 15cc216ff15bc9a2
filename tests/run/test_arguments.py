"""Arguments that ``launch`` refuses before it starts anything, and its error objects."""

from __future__ import annotations

import pickle
import threading
import weakref
from typing import Any

import pytest
import torch

import asyncopt
from asyncopt.errors import AsyncoptError, RunTimeout, WorkerError
from asyncopt.run import launch
from asyncopt.run.outcome import describe, portable, stillborn
from asyncopt.run.plan import Plan

from .conftest import children
from .jobs import OneWay, Unlucky, nothing


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"fn": 3}, TypeError, r"fn: expected a function, got int"),
        ({"args": [1]}, TypeError, r"args: expected a tuple, got list; .* args=\(argument,\)"),
        ({"workers": 0}, ValueError, r"workers: expected an integer >= 1, got 0"),
        ({"workers": 2.0}, TypeError, r"workers: expected an integer >= 1, got 2.0"),
        ({"workers": True}, TypeError, r"workers: expected an integer >= 1, got True"),
        ({"threads_per_worker": 0}, ValueError, r"threads_per_worker: expected .* got 0"),
        ({"mode": "fork"}, ValueError, r"mode: expected one of 'process', 'thread', got 'fork'"),
        ({"timeout": 0}, ValueError, r"timeout: expected seconds > 0, got 0"),
        ({"timeout": "1"}, TypeError, r"timeout: expected seconds > 0, got '1'"),
        ({"start_timeout": -1}, ValueError, r"start_timeout: expected seconds > 0, got -1"),
        ({"start_timeout": float("nan")}, ValueError, r"start_timeout: expected .* got nan"),
        ({"preload": "json"}, TypeError, r"preload: expected a list .* write preload=\['name'\]"),
        ({"preload": 3}, TypeError, r"preload: expected a list of module names, got 3; .*"),
        ({"preload": [3]}, ValueError, r"preload: expected absolute module names .* got 3"),
        ({"preload": [".near"]}, ValueError, r"preload: expected absolute .* got '\.near'"),
        (
            {"preload": ["json"], "mode": "thread"},
            ValueError,
            r"preload: expected no modules with mode='thread', .* got \['json'\]",
        ),
        (
            {"on_error": "ignore"},
            ValueError,
            r"on_error: expected one of 'raise', 'continue', 'restart', got 'ignore'",
        ),
        ({"retries": -1}, ValueError, r"retries: expected an integer >= 0, got -1"),
        ({"retries": 1.5}, TypeError, r"retries: expected an integer >= 0, got 1.5"),
        ({"stall_timeout": 0}, ValueError, r"stall_timeout: expected seconds > 0, got 0"),
        ({"max_staleness": -1}, ValueError, r"max_staleness: expected an integer >= 0, got -1"),
        (
            {"resume": True},
            ValueError,
            r"resume: expected checkpoint= to resume from, got None; .*",
        ),
        ({"checkpoint": 3}, TypeError, r"checkpoint: expected a path or .*Checkpoints, got 3"),
        ({"log_dir": 3}, TypeError, r"log_dir: expected a path, got 3"),
        ({"trace": b"t"}, TypeError, r"trace: expected a path, got b't'"),
        ({"trace": ""}, ValueError, r"trace: expected a path, got ''"),
        ({"checkpoint": ""}, ValueError, r"path: expected a directory, got ''; pass '\.' for .*"),
    ],
)
def test_bad_arguments(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}$"):
        launch(**{"fn": nothing, **options})


def test_arguments_that_do_not_pickle_are_named() -> None:
    before = children()
    with pytest.raises(
        TypeError,
        match=r"^args\[1\]: expected .* pickle can .*\(\['deep'\]\[0\]: cannot pickle .*lock",
    ):
        launch(nothing, (1, {"deep": [threading.Lock()]}, 2))
    grown = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(TypeError, match=r"^args\[0\]: .* type Tensor \(.*non-leaf"):
        launch(nothing, (grown,))
    assert children() == before


def test_the_plan_shares_out_the_cpus() -> None:
    plan = Plan(3, 1, True, 1, 1, allowed=(2, 5))
    assert [plan.cpus(rank) for rank in range(3)] == [(2,), (5,), (2,)]
    assert Plan(2, 2, True, 1, 1, allowed=(0, 1, 2, 3)).cpus(1) == (2, 3)
    assert Plan(2, 2, False, 1, 1, allowed=(0, 1)).cpus(1) == ()
    allowed = len(Plan.check(workers=1).allowed)
    assert Plan.check(workers=1).threads == allowed
    assert Plan.check(workers=allowed + 1).threads == 1
    assert Plan.check(workers=2, threads_per_worker=3).threads == 3


@pytest.mark.parametrize("kind", ["Adam", "Adadelta", "LBFGS"])
def test_an_optimizer_of_torchs_own_is_warned_about(kind: str) -> None:
    model = torch.nn.Linear(2, 2)
    other = getattr(torch.optim, kind)(model.parameters())
    remedy = "" if kind == "LBFGS" else f"; use asyncopt.{kind}"
    message = (
        rf"args: expected optimizers of asyncopt, got torch\.optim\.\w+\.{kind}: .*saved{remedy}$"
    )
    with pytest.warns(RuntimeWarning, match=message):
        launch(nothing, (model, [other]), mode="thread")
    launch(nothing, (model, asyncopt.LocalSteps(other, 2)), mode="thread")


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(WorkerError("worker 1 raised", 1, "Traceback: x")))
    assert (error.rank, error.traceback, error.message) == (1, "Traceback: x", "worker 1 raised")
    assert str(error) == "worker 1 raised\n\n-- traceback of worker 1 --\nTraceback: x"
    assert str(WorkerError("worker 1 died", 1)) == "worker 1 died"
    late = pickle.loads(pickle.dumps(RunTimeout("late", (1, 2))))
    assert (str(late), late.ranks) == ("late", (1, 2))
    assert isinstance(late, TimeoutError)
    assert isinstance(late, AsyncoptError)


def test_exceptions_that_pickle_one_way_only_are_not_sent() -> None:
    assert portable(OneWay("a", "b")) is None
    data = portable(Unlucky("a"))
    assert data is not None
    assert isinstance(pickle.loads(data), Unlucky)


def test_messages_for_deaths() -> None:
    assert describe(1, Unlucky("boom")).startswith("worker 1 raised ")
    assert describe(1, Unlucky("boom")).endswith("Unlucky: boom")
    assert describe(0, SystemExit(2)).startswith("worker 0 called sys.exit(2) before fn returned")
    assert describe(0, SystemExit()).startswith("worker 0 called sys.exit() before fn returned")
    killed = stillborn(1, -9, started=True)
    assert (
        killed
        == "worker 1 was killed by SIGKILL (signal 9); the kernel sends it when memory runs out"
    )
    assert stillborn(1, -11, started=True) == "worker 1 was killed by SIGSEGV (signal 11)"
    assert "__main__" in stillborn(0, 1, started=False)


def test_a_parameter_of_two_optimizers_is_refused() -> None:
    """Under a sync with replicas one of the two would train in vain."""
    model = torch.nn.Linear(2, 2)
    first = asyncopt.SGD(model.parameters(), lr=0.1, sync="seqlock")
    second = asyncopt.SGD([model.bias], lr=0.1, sync="seqlock")
    with pytest.raises(
        ValueError, match=r"params\[0\] of optimizer 1: .* params\[1\] of optimizer 0"
    ):
        launch(nothing, (model, first, second), mode="thread")
    assert first.store is second.store is None


def test_an_optimizer_is_in_one_run_at_a_time() -> None:
    """Neither another launch nor unshare() takes the store from a running one."""
    model = torch.nn.Linear(2, 2)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    refused = []
    original = weakref.ref(optimizer)  # of which the thread would otherwise have a copy

    def meanwhile(worker: asyncopt.Worker, model: Any, clone: Any) -> None:
        optimizer: Any = original()
        for call in (lambda: launch(nothing, (model, optimizer), mode="thread"), optimizer.unshare):
            with pytest.raises(RuntimeError, match="in a running launch") as caught:
                call()
            refused.append(str(caught.value))

    launch(meanwhile, (model, optimizer), workers=1, mode="thread")
    assert len(refused) == 2
    assert optimizer.unshare().store is None
    launch(nothing, (model, optimizer), mode="thread")


def test_an_optimizer_in_a_scheduler_is_warned_about() -> None:
    model = torch.nn.Linear(2, 2)
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters()), 1)
    with pytest.warns(RuntimeWarning, match=r"got torch\.optim\.sgd\.SGD"):
        launch(nothing, (model, scheduler), mode="thread")
