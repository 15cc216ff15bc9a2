"""Workers as threads."""

from __future__ import annotations

import _thread
import os
import threading
import time

import pytest
import torch

from asyncopt.errors import RunTimeout, WorkerError
from asyncopt.run import Worker, launch

from . import jobs


def test_results_and_settings() -> None:
    settings: list[tuple[int, set[int]]] = []

    def fn(worker: Worker, rows: list[int]) -> int:
        settings.append((torch.get_num_threads(), os.sched_getaffinity(0)))
        worker.barrier()
        time.sleep(0.1)
        rows.append(worker.rank)
        return worker.rank * 10

    rows: list[int] = []
    allowed = sorted(os.sched_getaffinity(0))
    start = time.monotonic()
    run = launch(fn, (rows,), workers=3, mode="thread", threads_per_worker=1, pin=True)
    assert run.results == [0, 10, 20]
    assert sorted(rows) == [0, 1, 2]
    assert 0.1 <= run.elapsed <= time.monotonic() - start
    assert [threads for threads, _ in settings] == [1, 1, 1]
    assert {frozenset(cpus) for _, cpus in settings} == {frozenset([cpu]) for cpu in allowed[:3]}
    assert sorted(os.sched_getaffinity(0)) == allowed


def test_no_worker_starts_before_all_are_ready() -> None:
    alive: list[int] = []

    def fn(worker: Worker) -> None:
        names = {thread.name for thread in threading.enumerate()}
        alive.append(len({f"asyncopt-worker-{rank}" for rank in range(8)} & names))
        worker.barrier()

    launch(fn, workers=8, mode="thread")
    assert alive == [8] * 8


def test_an_exception_stops_the_others() -> None:
    def fn(worker: Worker) -> None:
        if worker.rank == 1:
            jobs.inner_trouble()
        if worker.rank == 2:
            worker.barrier(timeout=50)
        jobs.sleep_long(worker)

    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"^worker 1 raised .*Unlucky: boom") as caught:
        launch(fn, workers=3, mode="thread")
    assert time.monotonic() - start < 45  # the others would take 60 s
    assert "in inner_trouble" in caught.value.traceback
    assert isinstance(caught.value.__cause__, jobs.Unlucky)


def test_sys_exit_is_a_failure() -> None:
    with pytest.raises(WorkerError, match=r"^worker 0 called sys\.exit\(3\) before fn returned"):
        launch(jobs.leave, ("sys.exit",), workers=1, mode="thread")


def test_the_timeout_names_the_late_workers() -> None:
    def fn(worker: Worker) -> None:
        if worker.rank == 1:
            jobs.sleep_long(worker)

    with pytest.raises(RunTimeout, match=r"within 0\.2 s, worker 1 did not") as caught:
        launch(fn, workers=2, mode="thread", timeout=0.2)
    assert caught.value.ranks == (1,)


def test_a_thread_that_cannot_be_stopped_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncopt.run.member.TERM_GRACE", 0.1)
    over = threading.Event()
    before = threading.enumerate()
    try:
        with pytest.raises(RunTimeout) as caught:
            launch(lambda worker: over.wait(), workers=1, mode="thread", timeout=0.1)
    finally:
        over.set()
        for thread in set(threading.enumerate()).difference(before):
            thread.join()
    assert caught.value.__notes__ == [
        "worker 0 did not stop; what does not stop lives on as a daemon thread",
        "The run ended after 0 updates.",
    ]


def test_ctrl_c_stops_all() -> None:
    def fn(worker: Worker) -> None:
        worker.barrier()
        if worker.rank == 0:
            _thread.interrupt_main()
        jobs.sleep_long(worker)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch(fn, workers=2, mode="thread")
    assert time.monotonic() - start < 45  # the others would take 60 s


def test_barriers() -> None:
    passed: list[int] = []

    def fn(worker: Worker) -> list[int]:
        counts = []
        for _ in range(50):
            passed.append(worker.rank)
            worker.barrier()
            counts.append(len(passed))
            worker.barrier()
        return counts

    run = launch(fn, workers=4, mode="thread")
    assert run.results == [[4 * (i + 1) for i in range(50)]] * 4


def test_a_barrier_that_somebody_skips_or_is_late_for() -> None:
    assert (
        "worker 1 returned without it"
        in launch(jobs.skip_barrier, workers=2, mode="thread").results[0]
    )
    first, second = launch(
        jobs.late_for_barrier, (torch.zeros(1),), workers=2, mode="thread"
    ).results
    assert "worker 1 did not come" in first
    assert second == first
