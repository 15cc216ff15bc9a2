"""Observers of a run: order of calls, and handling of their exceptions."""

from __future__ import annotations

import _thread
import math
from pathlib import Path
from typing import Any

import pytest

import asyncopt
from asyncopt.errors import WorkerError
from asyncopt.optim.reach import Trained
from asyncopt.run import Worker
from asyncopt.run.board import Board
from asyncopt.run.entry import WorkerTask
from asyncopt.run.observe import Observer, Observers, RunView
from asyncopt.run.plan import Plan
from asyncopt.run.processes import ProcessMember
from asyncopt.run.supervise import supervise
from asyncopt.run.threads import ThreadMember

from . import jobs, telemetry_jobs
from .conftest import children


class Witness(Observer):
    """Record calls, and raise in those named."""

    def __init__(self, interval: float = 0.05, trouble: str = "") -> None:
        self.interval = interval
        self.calls: list[str] = []
        self.ticks: list[float] = []
        self.error: BaseException | None = None
        self._trouble = trouble

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self._trouble:
            raise jobs.Unlucky(call)

    def start(self, run: RunView) -> None:
        self.view = view = run
        self.before = children()
        assert view.elapsed() == 0
        assert view.process_ids() == [None] * view.workers
        self._note("start")

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        assert self.view.elapsed() > 0
        self._note("tick")

    def end(self, error: BaseException | None) -> None:
        self.error = error
        self.left = children() - self.before
        assert self.view.process_ids() == [None] * self.view.workers
        self._note("end")


def watch(fn: Any, *observers: Observer, member: Any = ThreadMember, workers: int = 1) -> Any:
    plan = Plan.check(workers=workers)
    return supervise(
        member, WorkerTask(fn, (), Trained.of(()), Board(workers), plan), [], observers
    )


def test_ticks_come_between_start_and_end() -> None:
    often, seldom = Witness(0.02), Witness(0.1)
    watch(lambda worker: jobs.sleep_long_enough(0.5), often, seldom)
    for witness in (often, seldom):
        assert witness.calls[0] == "start"
        assert witness.calls[-1] == "end"
        assert set(witness.calls[1:-1]) == {"tick"}
        assert witness.error is None
        gaps = [b - a for a, b in zip(witness.ticks, witness.ticks[1:], strict=False)]
        assert min(gaps) >= 0.9 * witness.interval
    assert len(often.ticks) > len(seldom.ticks)


def test_the_end_comes_when_no_worker_lives() -> None:
    watch(jobs.nothing, member=ProcessMember, workers=2)  # what workers are forks of stays
    witness = Witness()
    with pytest.raises(WorkerError) as caught:
        watch(jobs.kill_self, witness, member=ProcessMember, workers=2)
    assert witness.error is caught.value
    assert witness.left == set()


def test_ctrl_c_ends_them_too() -> None:
    def fn(worker: Worker) -> None:
        _thread.interrupt_main()
        jobs.sleep_long(worker)

    witness = Witness()
    with pytest.raises(KeyboardInterrupt):
        watch(fn, witness)
    assert isinstance(witness.error, KeyboardInterrupt)


def test_what_a_start_raises_ends_the_run() -> None:
    first, second, third = Witness(), Witness(trouble="start"), Witness()
    with pytest.raises(jobs.Unlucky) as caught:
        watch(jobs.nothing, first, second, third)
    assert first.calls == ["start", "end"]
    assert second.calls == ["start", "end"]
    assert third.calls == []
    assert first.error is caught.value


def test_what_a_tick_raises_is_a_warning() -> None:
    first, second = Witness(0.1, trouble="tick"), Witness(0.1)
    with pytest.warns(RuntimeWarning, match="^Witness failed and goes on: Unlucky: tick$"):
        watch(lambda worker: jobs.sleep_long_enough(0.5), first, second)
    assert len(first.ticks) > 1
    assert len(second.ticks) > 1
    assert first.error is None


def test_what_an_end_raises_is_raised_or_noted() -> None:
    first, second = Witness(trouble="end"), Witness()
    with pytest.raises(jobs.Unlucky) as caught:
        watch(jobs.nothing, first, second)
    assert second.calls == ["start", "end"]
    assert second.error is caught.value

    with pytest.raises(WorkerError) as failed:
        watch(lambda worker: jobs.inner_trouble(), Witness(trouble="end"))
    assert failed.value.__notes__ == ["Witness failed: Unlucky: end"]


def test_without_observers_nothing_is_due() -> None:
    assert Observers(()).due == math.inf


class Log(asyncopt.Observer):
    """A user's logger."""

    interval = 0.05

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.losses: list[asyncopt.Loss] = []
        self.pushes = 0

    def start(self, run: asyncopt.RunView) -> None:
        self._metrics = asyncopt.Metrics(run)
        assert self._metrics() == {}

    def tick(self, now: float) -> None:
        self.metrics.append(self._metrics())

    def loss(self, loss: asyncopt.Loss) -> None:
        self.losses.append(loss)
        raise jobs.Unlucky("loss")

    def end(self, error: BaseException | None) -> None:
        self.metrics.append(self._metrics())
        self.pushes = self._metrics.updates


def test_a_logger_sees_every_push_and_every_loss(tmp_path: Path) -> None:
    model = jobs.Bias(4)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    log = Log()
    with (
        pytest.warns(RuntimeWarning, match="it is replaced in"),
        pytest.warns(RuntimeWarning, match="^Log failed and goes on: Unlucky: loss$"),
    ):
        run = asyncopt.launch(
            telemetry_jobs.die_once,
            (model, optimizer, 0.5, tmp_path / "note"),
            workers=2,
            on_error="restart",
            observers=[log],
        )
    assert log.pushes == run.ledger.pushes
    assert [loss.rank for loss in log.losses] == [loss.rank for loss in run.losses]
    assert log.losses[0].cause == run.losses[0].cause
    assert log.losses[0].when == pytest.approx(run.losses[0].when)
    assert any(metrics.get("updates_per_second/all", 0) > 0 for metrics in log.metrics)


@pytest.mark.parametrize(
    ("observers", "message"),
    [
        (Log(), "observers: expected a list of asyncopt.Observer, got Log; for a single one"),
        ([Log(), print], r"observers\[1\]: expected an instance of asyncopt.Observer, got builtin"),
        ([Log], r"observers\[0\]: expected an instance of asyncopt.Observer, got Log; .* Log\(\)"),
    ],
)
def test_what_is_no_observer_is_refused(observers: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        asyncopt.launch(jobs.nothing, workers=1, observers=observers)
