"""``launch``: run a function in several workers that train one model."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asyncopt.optim.sharing import thread_clone
from asyncopt.run.optimizers import find_optimizers, leave_stores
from asyncopt.run.plan import Plan
from asyncopt.run.processes import run_processes
from asyncopt.run.threads import run_threads
from asyncopt.store.ledger import Ledger

__all__ = ["MODES", "Run", "launch"]

MODES = ("process", "thread")


@dataclass(frozen=True)
class Run:
    """What a finished run leaves.

    Attributes:
        results: what ``fn`` returned, in the order of ranks.
        elapsed: seconds from the start barrier, where all workers had their arguments, to the last
            worker's return from ``fn``; start-up and exit are not in it.
        ledger: what the workers' pushes did during the run, over all optimizers in ``args``.
        workers: number of workers.
    """

    results: list[Any]
    elapsed: float
    ledger: Ledger
    workers: int

    @property
    def updates_per_second(self) -> float:
        """Pushes of all workers per second of ``elapsed``."""
        return self.ledger.pushes / self.elapsed


def launch(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    workers: int = 2,
    *,
    mode: str = "process",
    threads_per_worker: int | None = None,
    pin: bool = False,
    timeout: float | None = None,
    start_timeout: float = 300.0,
) -> Run:
    """Run ``fn(worker, *args)`` in several workers at once and wait for all of them.

    Every asyncopt optimizer in ``args``, also inside lists, tuples and dicts, is first moved to
    shared memory with its parameters, unless it is there already. After the run the optimizers'
    parameters in this process are those that the workers trained.

    Processes are spawned, never forked: ``fn`` must be defined at the top level of a module,
    ``args`` must pickle, and a script must call ``launch`` under ``if __name__ == "__main__":``.
    Tensors in ``args`` are moved to shared memory and not copied, so what one worker writes to them
    all see. Worker processes die with this one, whatever ends it, and ignore Ctrl-C, which ends the
    run from here.

    Threads take any ``fn``: each gets its own model and optimizer on the shared parameters, and all
    else in ``args`` as it is.

    Args:
        fn: called with an ``asyncopt.run.Worker`` and ``args``. Processes pickle what it returns by
            value.
        args: arguments for ``fn``. In processes each worker gets its own unpickled copy.
        workers: number of workers.
        mode: "process" or "thread".
        threads_per_worker: torch threads for each worker, and in processes also ``OMP_NUM_THREADS``
            of the child's environment (this process's environment stays as it is). By default the
            CPUs that this process may use, divided by ``workers``, at least 1.
        pin: bind each worker to its own CPUs, one per thread: worker i with one thread to CPU i
            modulo n of the n CPUs that this process may use.
        timeout: seconds from the start barrier within which all workers must return.
        start_timeout: seconds within which all workers must stand at the start barrier.

    Returns:
        The results, the time taken and the ledger of the run.

    Raises:
        WorkerError: a worker raised, exited or was killed. It names the first one's rank, holds its
            traceback's text and has its exception as ``__cause__`` where that can be pickled. The
            other workers have been ended (SIGTERM, after 5 s SIGKILL).
        RunTimeout: a deadline passed; it names the late workers, and all have been ended.
        TypeError, ValueError: an argument is wrong; nothing was started.
    """
    _check(fn, args, mode)
    plan = Plan.check(workers, threads_per_worker, pin, timeout, start_timeout)
    if mode == "process":
        _check_importable(fn)

    optimizers = find_optimizers(args)
    for optimizer in optimizers:
        if optimizer.store is None:
            optimizer.share_memory(workers=plan.workers)
    before = [optimizer.ledger() for optimizer in optimizers]

    if mode == "process":
        results, elapsed = run_processes(fn, args, plan)
    else:
        copies = _thread_copies(args, plan.workers) if optimizers else [args] * plan.workers
        results, elapsed = run_threads(fn, copies, plan)

    for optimizer in optimizers:
        if optimizer.is_replica:
            optimizer.pull()
    ledger = Ledger.merge(
        [optimizer.ledger().since(then) for optimizer, then in zip(optimizers, before, strict=True)]
    )
    return Run(results=results, elapsed=elapsed, ledger=ledger, workers=plan.workers)


def _thread_copies(args: tuple[Any, ...], workers: int) -> list[tuple[Any, ...]]:
    """The arguments for each thread, with models and optimizers of its own on the shared memory."""
    copies: list[tuple[Any, ...]] = []
    try:
        for _ in range(workers):
            copies.append(thread_clone(args))  # noqa: PERF401 - those made so far must be undone
    except BaseException:
        for copy in copies:
            leave_stores(find_optimizers(copy))
        raise
    return copies


def _check(fn: object, args: object, mode: object) -> None:
    if not callable(fn):
        raise TypeError(f"fn: expected a function, got {type(fn).__name__}")
    if not isinstance(args, tuple):
        raise TypeError(
            f"args: expected a tuple, got {type(args).__name__}; "
            f"for a single argument write args=(argument,)"
        )
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")


def _check_importable(fn: Callable[..., Any]) -> None:
    """Raise TypeError if a spawned process could not find ``fn`` by its module and name."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    expected = "fn: expected a function defined at the top level of a module, got"
    if "<lambda>" in name or "<locals>" in name:
        raise TypeError(
            f"{expected} {name}; move it to the top level, where spawned processes can import it, "
            f"or use mode='thread'"
        )
    if getattr(fn, "__module__", None) == "__main__":
        main = sys.modules["__main__"]
        file = getattr(main, "__file__", None)
        if getattr(main, "__spec__", None) is None and (file is None or not os.path.exists(file)):
            raise TypeError(
                f"{expected} {name} from an interactive session or from stdin; move it to a file "
                f"and import it, or use mode='thread'"
            )
