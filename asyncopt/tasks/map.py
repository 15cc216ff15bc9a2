"""``map_tasks``: a function over many tasks, in worker processes that share their data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from asyncopt._checks import whole
from asyncopt._limits import allowed_cpus, usable_cpus
from asyncopt.errors import TaskError
from asyncopt.run.plan import Plan
from asyncopt.run.random_states import draw_root
from asyncopt.run.spawn import refuse_daemons
from asyncopt.tasks.pool import Ending, Pool
from asyncopt.tasks.pool_process import PoolPayload

__all__ = ["TaskResult", "make_plan", "map_tasks", "run_tasks"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class TaskResult(Generic[Result]):
    """The outcome of one task.

    Attributes:
        index: the task's number, from 0.
        error: why there is no value: it raised, took too long, or its workers died.
        seconds: time that it took in its worker, in the last attempt.
        attempts: how often it was started; more than once where workers died.
        worker: rank of the worker that ran it last.
    """

    index: int
    _value: Result
    error: TaskError | None
    seconds: float
    attempts: int
    worker: int

    @property
    def value(self) -> Result:
        """Return value of the function.

        Raises:
            TaskError: it returned nothing; the same as ``error``.
        """
        if self.error is not None:
            raise self.error
        return self._value


def map_tasks(
    fn: Callable[..., Result],
    tasks: Iterable[Any],
    data: tuple[Any, ...] = (),
    workers: int | None = None,
    *,
    threads_per_worker: int = 1,
    pin: bool | None = None,
    timeout: float | None = None,
    retries: int = 1,
    on_error: str = "raise",
    start_timeout: float = 300.0,
    seed: int | None = None,
) -> list[TaskResult[Result]]:
    """Run ``fn(task, *data)`` for every task, in worker processes that take one after the other.

    Processes start as those of :func:`asyncopt.launch`: tasks and data must pickle, and a script
    must call this under ``if __name__ == "__main__":``. ``fn`` may be a lambda, or defined in a
    notebook. The kernel kills the workers when this process ends.

    However many workers there are, the data is in memory once. Tensors are moved to shared memory
    where they are: what one worker writes to them all see. Numpy arrays, also those inside data
    frames, sparse matrices and the like, are copied to shared memory once; a worker that writes to
    one changes a copy of its own. Memory maps are mapped again from their file, except those that
    this process wrote to under mode "c" and those whose file is gone, which are copied.
    Optimizers of this package must be in a store before, by ``share_memory(workers=...)``, with a
    slot for each worker; any other one that ``fn`` has not made raises a RuntimeError at its first
    step.

    Each worker unpickles ``fn``, the tasks and the data once. Later tasks of the same worker see
    what a task changes in an object (a counter, a cache, a generator, an array); the number of
    workers decides which tasks these are. Make objects with state inside ``fn``, or copy them
    there. (Each fold of :func:`cross_validate` has copies of its own.)

    The global generators of torch, numpy and Python are seeded before each task. The seed depends
    on the root (``seed``, or one number that is drawn from torch's global generator) and the task's
    number: ``numpy.random.SeedSequence(root, spawn_key=(task,))``. So a task draws the same numbers
    in any worker, with any number of workers, and when it is run again.

    Args:
        fn: called with a task and the data. What it returns is pickled by value.
        tasks: anything; each goes to one worker at a time, longest first if they differ much.
        data: further arguments for ``fn``, the same for every task.
        workers: number of processes. By default the CPUs that this process may use (its affinity,
            or the CPU quota of its control group rounded down if that is less), divided by
            ``threads_per_worker``, at least 1.
        threads_per_worker: torch threads of each worker, and its ``OMP_NUM_THREADS``.
        pin: bind each worker to processors of its own. By default where the workers' threads are
            as many as the processors that this process may use, and the system lets it.
        timeout: seconds that one task may take; its worker is killed then, and it is not retried.
        retries: how often a task is started again after its worker died (killed, crashed, out of
            memory). One that raises an exception is not: it would again.
        on_error: "raise" the first task's error and end the others, or "return" it in that task's
            result and go on.
        start_timeout: seconds within which a worker must be ready for its first task.
        seed: root of the tasks' random streams, an integer >= 0. None: one number that is drawn
            from torch's global generator.

    Returns:
        One result per task, in the order of ``tasks``.

    Raises:
        TaskError: a task failed and ``on_error`` is "raise".
        WorkerError: a worker could not start.
        RunTimeout: a worker was not ready in time.
        RuntimeError: this is a daemonic process, such as a worker of ``multiprocessing.Pool``.
        TypeError, ValueError: an argument is wrong; nothing was started.
    """
    if not callable(fn):
        raise TypeError(f"fn: expected a function, got {type(fn).__name__}")
    if not isinstance(data, tuple):
        raise TypeError(
            f"data: expected a tuple, got {type(data).__name__}; for one item write data=(item,)"
        )
    if not hasattr(tasks, "__iter__"):
        raise TypeError(f"tasks: expected a list or another iterable, got {type(tasks).__name__}")
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error: expected 'raise' or 'return', got {on_error!r}")
    tasks = list(tasks)
    plan = make_plan(workers, threads_per_worker, pin, timeout, start_timeout, seed)
    results: dict[int, TaskResult[Result]] = {}

    def on_end(index: int, e: Ending) -> None:
        if e.error is not None and on_error == "raise":
            raise e.error
        results[index] = TaskResult(index, e.value, e.error, e.seconds, e.attempts, e.worker)

    run_tasks(fn, tasks, data, plan, retries=retries, on_end=on_end)
    return [results[index] for index in range(len(tasks))]


def run_tasks(
    fn: Callable[..., Any],
    tasks: list[Any],
    data: tuple[Any, ...],
    plan: Plan,
    *,
    retries: int,
    on_end: Callable[[int, Ending], None],
    tick: Callable[[], None] = lambda: None,
    isolated: bool = False,
) -> None:
    """`map_tasks` that reports the end of each task at once; see `Pool` and `PoolPayload`."""
    retries = whole("retries", retries, 0)
    refuse_daemons()
    if plan.seed is None:
        plan = replace(plan, seed=draw_root())
    payload = PoolPayload(isolated=isolated, fn=fn, tasks=tasks, data=data)
    Pool(payload, len(tasks), plan, retries=retries, on_end=on_end, tick=tick).run()


def make_plan(
    workers: Any,
    threads_per_worker: Any,
    pin: bool | None,
    timeout: Any,
    start_timeout: Any,
    seed: Any,
    preload: Any = (),
) -> Plan:
    """Plan of the pool's workers; fills in defaults.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    def plan(workers: Any, pin: bool) -> Plan:
        return Plan.check(
            workers=workers,
            threads_per_worker=threads_per_worker,
            pin=pin,
            timeout=timeout,
            start_timeout=start_timeout,
            seed=seed,
            preload=preload,
        )

    threads = plan(1, pin=False).threads
    workers = max(1, usable_cpus() // threads) if workers is None else workers
    if pin is None:
        # With processors to spare, another run here would pin its workers to the same ones. Under
        # a quota there are always some to spare.
        pin = plan(workers, pin=False).workers * threads == len(allowed_cpus()) and _may_pin()
    return plan(workers, pin)


def _may_pin() -> bool:
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except OSError:
        return False
    return True
