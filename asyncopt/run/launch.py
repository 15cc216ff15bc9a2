"""``launch``: run a function in several workers that train one model."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from asyncopt._renamed import renamed
from asyncopt.errors import AsyncoptError
from asyncopt.optim.reach import Trained
from asyncopt.run.board import Board
from asyncopt.run.checkpoint import save
from asyncopt.run.checkpoint.worker_states import WorkerStates
from asyncopt.run.culprits import naming
from asyncopt.run.entry import REBUILD, WorkerTask, parts_of
from asyncopt.run.observe import Observer, check_observers
from asyncopt.run.optimizers import SharedOptimizer, shared, warn_of_unshared
from asyncopt.run.outcome import Loss
from asyncopt.run.payload import find_trained
from asyncopt.run.plan import Plan
from asyncopt.run.processes import ProcessMember
from asyncopt.run.random_states import draw_root
from asyncopt.run.spawn import refuse_daemons
from asyncopt.run.supervise import supervise
from asyncopt.run.telemetry.history import History
from asyncopt.run.telemetry.recorder import Recorder
from asyncopt.run.threads import ThreadMember, torch_threads
from asyncopt.run.transfers import TransferLog, Transfers
from asyncopt.store.ledger import Ledger

if TYPE_CHECKING:
    from asyncopt.run.checkpoint.observer import CheckpointObserver

__all__ = ["MODES", "Run", "launch"]

MODES = ("process", "thread")


@dataclass(frozen=True, repr=False)
class Run:
    """The result of a run.

    Attributes:
        results: what ``fn`` returned, in the order of ranks; None for workers lost for good.
        elapsed: seconds from the start barrier, where all workers had their arguments, to the last
            worker's return from ``fn``, without start-up and exit.
        ledger: counters of the workers' pushes during the run, over all its optimizers.
        workers: number of workers.
        restarts: how often each worker was replaced, in the order of ranks.
        losses: the workers that ended before ``fn`` returned, in chronological order.
        history: samples of the run over time.
        args: as given.
        trained: the optimizers, modules and schedulers that were found in ``fn`` and ``args``.
        transfers: transfers and pushes of workers with devices; None without devices.
        failed_checkpoints: number of checkpoints that were skipped or could not be written; each
            gave a RuntimeWarning.
    """

    results: list[Any]
    elapsed: float
    ledger: Ledger
    workers: int
    restarts: tuple[int, ...]
    losses: tuple[Loss, ...]
    history: History
    args: tuple[Any, ...]
    trained: Trained
    transfers: Transfers | None = None
    failed_checkpoints: int = 0

    @property
    def updates_per_second(self) -> float:
        """Pushes of all workers per second of ``elapsed``."""
        return self.ledger.pushes / self.elapsed

    def save(self, path: str | os.PathLike[str], *, meta: Any = None) -> Path:
        """Write a checkpoint of what was trained; see :func:`asyncopt.save`.

        Args:
            path: the directory that holds the checkpoints.
            meta: plain data to keep with it.

        Returns:
            The new checkpoint's directory.

        Raises:
            CheckpointError: it cannot be written; older ones are untouched.
        """
        return save(self.trained, path, meta=meta)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one page of HTML with plots of how the run went.

        Args:
            path: of the file; it is replaced as a whole.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            OSError: it cannot be written.
        """
        from asyncopt.run.telemetry.report import write_report

        write_report(self, path)

    def __repr__(self) -> str:
        """One line for the updates, and one for lost workers if there are any."""
        done = (
            f"{_counted(self.workers, 'worker')}: {_counted(self.ledger.pushes, 'update')} "
            f"in {self.elapsed:.1f} s ({self.updates_per_second:,.0f}/s)"
        )
        if self.failed_checkpoints:
            done += f"\n{_counted(self.failed_checkpoints, 'checkpoint')} not written"
        if not self.losses:
            return done
        who = ", ".join(
            f"{rank} ({times}x)" if times > 1 else str(rank)
            for rank, times in sorted(Counter(loss.rank for loss in self.losses).items())
        )
        broken = sum(loss.batch is not None for loss in self.losses)
        repairs = sum(loss.repairs for loss in self.losses)
        return (
            f"{done}\n{_counted(len(self.losses), 'worker')} lost (rank {who}), "
            f"{sum(self.restarts)} replaced; {_counted(broken, 'batch', 'batches')} interrupted, "
            f"{_counted(repairs, 'lock')} repaired"
        )


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@renamed(on_failure="on_error", restarts="retries")
def launch(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    workers: int | None = None,
    *,
    devices: Sequence[str | torch.device] | None = None,
    lag: int = 0,
    mode: str = "process",
    threads_per_worker: int | None = None,
    pin: bool = False,
    timeout: float | None = None,
    start_timeout: float = 300.0,
    seed: int | None = None,
    preload: Sequence[str] = (),
    on_error: str = "raise",
    retries: int = 3,
    stall_timeout: float | None = None,
    max_staleness: int | None = None,
    delay: Any = None,
    checkpoint: Any = None,
    resume: bool = False,
    view: bool = False,
    log_dir: str | os.PathLike[str] | None = None,
    trace: str | os.PathLike[str] | None = None,
    observers: Iterable[Observer] = (),
) -> Run:
    """Run ``fn(worker, *args)`` in several workers at once and wait for all of them.

    Every asyncopt optimizer that the workers receive is first moved to shared memory with its
    parameters, unless it is there already. These are the optimizers in ``args`` and all others that
    pickling ``fn`` and ``args`` reaches, such as an agent's attribute, a variable of a closure, the
    object of a bound method or an argument of a ``functools.partial``. Any other optimizer made
    before ``fn`` was called, such as a global of an imported module, raises a RuntimeError at its
    first step in a worker. Optimizers made by ``fn`` belong to one worker. A shared optimizer is
    moved again if its parameters were replaced since, if a replica's parameters were written here,
    or if the store has too few slots. When the run ends, by return or by exception, the optimizers'
    parameters in this process are the newest complete version, and an exception has a note with the
    number of updates. ``launch`` warns of each optimizer of torch's own among them, which would
    train without a sync.

    Processes start as spawned ones do: ``args`` must pickle, and a script must call ``launch``
    under ``if __name__ == "__main__":``. Functions and classes that a worker can import are sent by
    name. All others are sent by value, with the globals that they use: lambdas, closures, and what
    is defined in a notebook, in an interactive session, on stdin or under that ``if``. A worker's
    change to such a global stays in that worker, except what it writes to a tensor.

    Workers are forked from a server process, not from this one. The first launch starts the server,
    which only imports torch and the modules of ``preload``, once for all workers of this and later
    launches, in any thread. It ends with this process, or by :func:`asyncopt.stop_fork_server`. A
    change of the environment, of limits, of users or of ``preload`` starts another server; the last
    two are kept. The kernel kills the workers when this process ends. Workers ignore Ctrl-C, which
    ends the run from here.

    Tensors in ``args`` are moved to shared memory, with every view of them: all workers and this
    process see what one of them writes. They cannot be resized afterwards, and numpy arrays that
    were made from them before keep the old memory. Arrays that were made from them through DLPack
    before must not be used any more, as their memory is freed. Numpy arrays in ``args`` are copied
    to shared memory once for all workers; what a worker writes to one stays in that worker. Memory
    maps are mapped again from their file, except those that this process wrote to under mode "c"
    and those whose file is gone, which are copied. Nothing is created in /dev/shm.

    Threads take any ``fn``: each gets its own model and optimizer on the shared parameters, with
    its own copy of the objects and closures that hold them, and all else as it is. A global is not
    copied, so an optimizer must not be one there.

    A worker is lost if it ends before ``fn`` returns: by an exception, an exit, a signal or lack of
    memory; ``on_error`` decides how the run continues. A replacement is a worker of the same rank
    that calls ``fn`` with the same ``args`` from the start, on the current parameters;
    ``worker.batches`` and ``worker.barrier`` continue where its predecessor was. Every loss that
    the run survives gives a RuntimeWarning and an entry in ``Run.losses``. Errors before ``fn``
    begins are always raised, except deaths by a signal.

    In a worker ``fn`` may write to parameters and buffers besides stepping: such writes are shared,
    or a ValueError names the tensor that cannot be shared. On replicas, writes that bypass torch's
    version counter are not detected: through ``param.data``, a numpy view or a fused optimizer. See
    docs/writes-inside-workers.md.

    Each worker process has random streams of its own, in the global generators of torch (CPU and
    GPUs), numpy and Python. A stream depends on the root (``seed``, or one number that ``launch``
    draws from torch's global generator), the rank, and how many workers of that rank were lost
    before: ``numpy.random.SeedSequence(root, spawn_key=(rank, life))``. So ranks, launches and
    replacements draw different numbers, and ``torch.manual_seed`` before a launch reproduces them,
    as far as they do not depend on the order of updates. Each stream begins when ``fn`` is called;
    code that runs before, such as imports and unpickling, draws the same numbers in all workers of
    a run. A resumed worker restores the states of its generators with the batch at which its
    checkpoint was taken, and until then uses the stream of the new launch. Threads share the
    generators of this process, which ``launch`` does not seed: the numbers that a thread draws
    depend on the others.

    Args:
        fn: called with an ``asyncopt.run.Worker`` and ``args``. Processes pickle what it returns by
            value.
        args: arguments for ``fn``. In processes each worker gets its own unpickled copy.
        workers: number of workers; by default one for each of ``devices``, or 2.
        devices: where each worker computes, "cpu" or "cuda:0"; the same device as often as it has
            workers. A worker with a device has a replica of the model there, under any sync: its
            gradients are pushed and new parameters pulled in the background. Call
            ``optimizer.flush()`` before writing to parameters, and before reading them in any other
            way than by a forward pass or ``state_dict()`` of the module that holds them. Each
            worker has its own buffers; those of worker 0 are kept.
            None: workers train in place, on the host.
        lag: with ``devices``, 0: a forward pass waits for the parameters pulled after its worker's
            last push, each module for its own. 1: it starts at once with those of the push before,
            which can hide the whole transfer, at the cost of one more push of staleness.
        mode: "process" or "thread".
        threads_per_worker: torch threads for each worker, and in processes also ``OMP_NUM_THREADS``
            of the child's environment (this process's environment stays as it is). By default the
            CPUs that this process may use (its affinity, or the CPU quota of its control group
            rounded down if that is less), divided by ``workers``, at least 1.
        pin: bind each worker to its own CPUs, one per thread: worker i with one thread to CPU i
            modulo n of the n CPUs that this process may use.
        timeout: seconds from the start barrier within which all workers must return.
        start_timeout: seconds within which all workers, or a replacement, must reach the start
            barrier.
        seed: root of the workers' random streams, an integer >= 0. None: one number that is drawn
            from torch's global generator.
        preload: names of modules that the fork server imports once for all workers, which saves
            time where imports are slow. A module that starts a thread or CUDA is refused. A module
            must not open files or connections, which all workers would share. If the file of a
            named module changes that this process has imported, another server is started; if a
            module changes that it imports in turn, call :func:`asyncopt.stop_fork_server`.
        on_error: "raise": end the run; "continue": continue with the other workers, whose barriers
            no longer wait for it (under ``dispatch="static"`` the rest of its batches is not
            trained; under ``"dynamic"`` others take them); "restart": replace it.
        retries: maximum number of replacements of each worker; the next loss ends the run. A
            replacement starts 0.1 s after the loss; the delay doubles, up to 5 s, with each
            further loss without progress in between.
        stall_timeout: seconds without progress (a batch, a barrier or a push) after which a
            RuntimeWarning names the worker and its state. The worker is neither ended nor replaced,
            and keeps its locks. None: stalls are not reported.
        max_staleness: maximum number of turns (from a pull to a push) of others that may end within
            a worker's own: 0 for one worker at a time, None for no bound.
        delay: an ``asyncopt.Delay`` to inject.
        checkpoint: a directory for checkpoints, or an ``asyncopt.Checkpoints`` with their interval
            and number. A last one is written when the run ends, also by Ctrl-C. Without
            ``resume`` the directory must hold no checkpoints.
        resume: begin with the newest checkpoint in ``checkpoint``, if there is one. Loops over
            batches continue exactly, or are refused if they were begun with other settings.
        view: show the run in the terminal.
        log_dir: a directory for TensorBoard.
        trace: a file for a Chrome trace of each worker's phases.
        observers: instances of ``asyncopt.Observer``, such as a logger; they are called in this
            process. They start after the observers of ``checkpoint``, ``log_dir``, ``trace`` and
            ``view``.

    Returns:
        The results, the time taken, the ledger and the losses of the run.

    Raises:
        WorkerError: a worker raised, exited or was killed, and the run could not go on. It names
            the rank, holds its traceback's text and has its exception as ``__cause__`` where that
            can be pickled. The other workers have been ended (SIGTERM, after 5 s SIGKILL).
        RunTimeout: a deadline passed; it names the late workers, and all have been ended.
        KeyboardInterrupt: Ctrl-C; all workers have been ended. After a SIGTERM the workers are
            ended likewise, then this process ends by that signal.
        SegmentError: shared memory has no room for tensors and arrays.
        CheckpointError: this run cannot continue from the checkpoints in ``checkpoint``, or
            something in ``args`` cannot be saved; nothing was changed. Settings of loops over
            batches are compared in the workers: another one raises WorkerError, whose
            ``__cause__`` is the CheckpointError, and the model here is then the checkpoint's.
        ImportError: a module of ``preload`` cannot be imported, or starts a thread or CUDA.
        RuntimeError: this is a daemonic process, such as a worker of ``multiprocessing.Pool``.
        TypeError, ValueError: an argument is wrong; nothing was started.
    """
    _check(fn, args, mode)
    plan = Plan.check(
        workers=workers,
        threads_per_worker=threads_per_worker,
        pin=pin,
        timeout=timeout,
        start_timeout=start_timeout,
        on_error=on_error,
        retries=retries,
        stall_timeout=stall_timeout,
        max_staleness=max_staleness,
        delay=delay,
        checkpoint=checkpoint,
        resume=resume,
        view=view,
        log_dir=log_dir,
        trace=trace,
        devices=devices,
        lag=lag,
        seed=seed,
        preload=preload,
    )
    if mode == "process":
        refuse_daemons(", or use mode='thread'")
    elif plan.preload:
        raise ValueError(
            f"preload: expected no modules with mode='thread', as threads import what this process "
            f"imports, got {list(plan.preload)}"
        )
    elif seed is not None:
        raise ValueError(
            "seed: expected None with mode='thread', as threads share the generators of this "
            f"process, got {seed}; call torch.manual_seed({seed})"
        )
    given = check_observers(observers)
    recorder = Recorder()
    worker_states = None if plan.checkpoint is None else WorkerStates()
    checkpoints = _checkpoint_observer(plan, worker_states)
    # The recorder comes last: it must not count updates restored from a checkpoint.
    observers = [*checkpoints, *_observers(plan), *given, recorder]

    if mode == "process":
        parts = parts_of(fn, args, plan)
        with naming(parts, REBUILD):
            trained = find_trained(parts)
    else:
        trained = Trained.of((fn, args))
    warn_of_unshared(trained)
    optimizers: list[SharedOptimizer] = trained.optimizers
    if plan.devices is not None:
        _check_for_devices(optimizers)
    member = ProcessMember if mode == "process" else ThreadMember
    threads = torch_threads(plan.threads) if mode == "thread" else contextlib.nullcontext()
    transfers = None if plan.devices is None else TransferLog(plan.workers)
    with shared(optimizers, plan.workers):
        root = draw_root() if mode == "process" and plan.seed is None else plan.seed
        task = WorkerTask(
            fn, args, trained, Board(plan.workers), plan, worker_states, transfers, root
        )
        try:
            with threads:
                outcome = supervise(member, task, optimizers, observers)
        except BaseException as error:
            with _as_note(error):
                _bring_up_to_date(optimizers)
            if recorder.has_started:
                done = _counted(recorder.ledger().pushes, "update")
                error.add_note(f"The run ended after {done}.")
            raise
        _bring_up_to_date(optimizers)
    return Run(
        results=outcome.results,
        elapsed=outcome.elapsed,
        ledger=recorder.ledger(),
        workers=plan.workers,
        restarts=outcome.restarts,
        losses=outcome.losses,
        history=recorder.history(),
        args=args,
        trained=trained,
        transfers=None if transfers is None else transfers.total(),
        failed_checkpoints=sum(observer.failed for observer in checkpoints),
    )


def _bring_up_to_date(optimizers: Sequence[SharedOptimizer]) -> None:
    """Update this process's models to the newest complete versions of their stores."""
    for optimizer in optimizers:
        if optimizer.is_replica:
            optimizer.pull()
        optimizer.catch_up()


@contextlib.contextmanager
def _as_note(error: BaseException) -> Iterator[None]:
    """Context whose exceptions become a note on `error`, which is being raised."""
    try:
        yield
    except AsyncoptError as problem:
        error.add_note(f"The model here may be older than its store: {problem}")


def _checkpoint_observer(
    plan: Plan, worker_states: WorkerStates | None
) -> list[CheckpointObserver]:
    """The observer that writes checkpoints; none without ``checkpoint=``."""
    if plan.checkpoint is None or worker_states is None:
        return []
    from asyncopt.run.checkpoint.observer import CheckpointObserver

    return [CheckpointObserver(plan.checkpoint, worker_states, resume=plan.resume)]


def _observers(plan: Plan) -> Iterator[Observer]:
    """Observers behind ``log_dir``, ``trace`` and ``view``; each is imported when needed."""
    if plan.log_dir is not None:
        from asyncopt.run.telemetry.tensorboard import TensorBoard

        yield TensorBoard(plan.log_dir)
    if plan.trace is not None:
        from asyncopt.run.telemetry.trace import Trace

        yield Trace(plan.trace)
    if plan.view:
        from asyncopt.run.telemetry.live import LiveView

        yield LiveView()


def _check_for_devices(optimizers: Sequence[SharedOptimizer]) -> None:
    """Raise ValueError for an optimizer that cannot push from another device."""
    for i, optimizer in enumerate(optimizers):
        if getattr(optimizer, "sparse_updates", "touched") != "touched":
            raise ValueError(
                f"devices: expected optimizers with sparse_updates='touched', as replicas are not "
                f"told what their rows owe, got 'dense' in optimizer {i}; use dense gradients"
            )


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
