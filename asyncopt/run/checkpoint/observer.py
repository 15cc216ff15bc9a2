"""Checkpoints of a run, written in the background."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from asyncopt import _core
from asyncopt.errors import CheckpointError
from asyncopt.run.checkpoint.checkpoint import Checkpoint, Checkpoints, Snapshot, resume
from asyncopt.run.checkpoint.contents import Contents
from asyncopt.run.checkpoint.directory import Directory
from asyncopt.run.checkpoint.ledgers import add_ledgers
from asyncopt.run.checkpoint.loops import begun, took_nothing
from asyncopt.run.checkpoint.worker_states import WorkerStates
from asyncopt.run.observe import Observer, RunView
from asyncopt.run.rendezvous import spell_ranks
from asyncopt.store.ledger import Ledger
from asyncopt.warn import warn_caller

__all__ = ["CheckpointObserver"]

IDLE_TICK = 0.05  # s between checks of the clock
BUSY_TICK = 0.005  # s between checks for parked workers
SETTLE = 0.001  # s until a worker's writes before it read the pause flag are visible to all cores
FIRST_LOOK = 0.02  # s that the tick which pauses the run waits for workers that park at once
PATIENCE = 5.0  # minimum time in s for workers to end their batches
GRACE = 1.0  # s for workers that have not used batches so far
LAST_WRITE = 600.0  # s to finish the write in progress when the run ends


class CheckpointObserver(Observer):
    """Write checkpoints at an interval, and a last one when the run ends or is interrupted.

    When one is due, the workers park at the ends of their batches. Stores, buffers and private
    state of workers are copied, and training continues while a thread writes the copy. A run that
    fails writes no last checkpoint: its current values may be the cause of the failure.

    Args:
        checkpoints: when and where to write.
        worker_states: of the run's workers.
        resume: continue from the newest checkpoint, if there is one.

    Attributes:
        failed: number of checkpoints that were skipped or could not be written; each gave a
            RuntimeWarning.
    """

    def __init__(
        self, checkpoints: Checkpoints, worker_states: WorkerStates, *, resume: bool = False
    ) -> None:
        self.failed = 0
        self._settings = checkpoints
        self._worker_states = worker_states
        self._resume = resume
        self._directory: Directory | None = None
        self._ready = False  # all objects have their initial values
        self._due = 0.0
        self._paused_at: float | None = None
        self._writer: _Writer | None = None
        self._warned: set[int] = set()  # workers that use no batches
        self._from: _core.Positions | None = None  # positions at which a resumed run started

    @property
    def interval(self) -> float:  # type: ignore[override]
        """Seconds between ticks; shorter while workers are parked."""
        return IDLE_TICK if self._paused_at is None else BUSY_TICK

    def start(self, run: RunView) -> None:
        """Open the directory; with ``resume``, restore the newest checkpoint there.

        Raises:
            CheckpointError: ``args`` hold something that cannot be saved, another run writes to the
                directory, all its checkpoints are damaged, the newest does not match this run, or
                there are checkpoints but ``resume`` is false. Nothing was changed.
        """
        self._view = run
        Contents(run.trained).read()  # raises now rather than at the first checkpoint
        path = Path(self._settings.path)
        self._directory = Directory(path, write=True)
        if not self._resume and (numbers := self._directory.numbers()):
            raise CheckpointError(
                f"checkpoint: expected a directory without checkpoints, got {str(path)!r}, which "
                f"holds {len(numbers)}: this run's would replace them; pass resume=True to go on "
                "from the newest, or name another directory"
            )
        newest = resume(path) if self._resume else None
        if newest is not None:
            self._go_on_from(newest)
        self._earlier = newest.ledger if newest is not None else Ledger(0, ())
        self._ledgers = [optimizer.ledger() for optimizer in run.optimizers]
        self._due = time.monotonic() + self._settings.every
        self._ready = True

    def tick(self, now: float) -> None:
        """Do what is due now. A failed checkpoint is counted; the next one is written when due."""
        try:
            self._advance(now)
        except Exception as problem:
            self._report(
                f"was not written: {type(problem).__name__}: {problem}; the next one is due in "
                f"{self._settings.every:g} s"
            )

    def _advance(self, now: float) -> None:
        if self._writer is not None and self._writer.is_done:
            writer, self._writer = self._writer, None
            writer.result()
        if self._paused_at is None and self._writer is None and now >= self._due:
            self._due = now + self._settings.every
            self._paused_at = now
            self._view.board.pause()
            until = now + FIRST_LOOK
            time.sleep(SETTLE)
            while self._late() and time.monotonic() < until:
                time.sleep(SETTLE)
        if self._paused_at is not None:
            self._look(now - self._paused_at)

    def end(self, error: BaseException | None) -> None:
        """Write the last checkpoint, unless the run failed. A failure of the one before is counted.

        Raises:
            CheckpointError: the last one could not be written, and ``error`` is not None; otherwise
                this is a warning.
        """
        if self._directory is None:
            return
        if error is None:
            self._say_if_finished()
        try:
            if self._writer is not None:
                try:
                    self._writer.result()
                except Exception as earlier:
                    self._report(f"was not written: {type(earlier).__name__}: {earlier}")
            free = self._writer is None or self._writer.is_done
            if self._ready and free and not isinstance(error, Exception):
                self._snapshot().write(self._directory, self._settings.keep)
        except (CheckpointError, OSError) as problem:
            if error is not None:
                raise
            self._report(f"was the last one and was not written: {problem}")
        finally:
            if self._writer is None or self._writer.is_done:  # else it is still writing
                self._directory.close()

    def _say_if_finished(self) -> None:
        if self._from is not None and took_nothing(self._from, self._view.board.positions()):
            warn_caller(
                f"resume: the run in {str(self._settings.path)!r} was finished, and no worker got "
                "a batch; its model is as it was. Give its loops more epochs to go on, or name "
                "another directory for a new run"
            )

    def _report(self, what: str) -> None:
        """Count and warn. The count makes messages unique: Python shows repeated ones only once."""
        self.failed += 1
        warn_caller(f"checkpoint: failure {self.failed} of this run: a checkpoint {what}")

    def _go_on_from(self, newest: Checkpoint) -> None:
        workers = self._view.workers
        if newest.positions is None or len(newest.workers) != workers:
            got = f"{len(newest.workers)}" if newest.positions else "none: asyncopt.save wrote it"
            raise CheckpointError(
                f"resume: expected a checkpoint of a run with {workers} workers, got one with "
                f"{got}, {newest.path}; start as many, or restore it with "
                "asyncopt.resume(path).restore(args) and launch with checkpoint= in another "
                "directory"
            )
        for change in newest.changed_hyperparameters(self._view.trained):
            warn_caller(
                f"resume: {change}: the run goes on with the former; to change it, restore the "
                "checkpoint with asyncopt.resume(path).restore(args), set it, and launch with "
                "checkpoint= in another directory"
            )
        newest.restore(self._view.trained)
        self._view.board.restore(newest.positions)
        self._from = newest.positions
        for rank, kept in enumerate(newest.workers):
            if kept is not None:
                self._worker_states.leave(rank, kept)
        if newest.loops is None:
            warn_caller(
                f"resume: {newest.path} was written before checkpoints recorded the settings of "
                "loops, which are not compared: batches are repeated or left out if batch_size, "
                "seed, dispatch or the data are others than then"
            )
            return
        for rank, loops in enumerate(newest.loops):
            self._worker_states.put_loops(rank, loops)

    def _look(self, waited: float) -> None:
        """While the run is paused: take the snapshot once all workers are parked, or give up."""
        late = self._late()
        try:
            if (
                late
                and all(map(self._cannot_pause, late))
                and (waited > GRACE or self._warned.issuperset(late))
            ):
                self._warn_unpausable(late)
                late = []
            if not late:
                snapshot = self._snapshot()
            elif waited > (patience := max(self._settings.every, PATIENCE)):
                raise CheckpointError(
                    f"checkpoint: expected all workers to end their batches within "
                    f"{patience:g} s, {spell_ranks(late)} did not; this one is left out"
                )
            else:
                return
        except BaseException:
            self._let_go()
            raise
        self._let_go()
        assert self._directory is not None
        self._writer = _Writer(snapshot, self._directory, self._settings.keep)

    def _let_go(self) -> None:
        self._paused_at = None
        self._due = time.monotonic() + self._settings.every
        self._view.board.resume()

    def _late(self) -> list[int]:
        """The workers that may still push."""
        board = self._view.board
        at_rest = self._view.at_barrier().union(board.parked)
        return [
            rank
            for rank, process in enumerate(self._view.process_ids())
            if process is not None and rank not in at_rest and not self._has_no_turn(rank)
        ]

    def _has_no_turn(self, rank: int) -> bool:
        """True if a worker has not reached its first batch, or has finished its last.

        A worker publishes progress or another phase before it checks whether to park.
        """
        seat = self._view.board.seat(rank)
        unused = seat["phase"] == "start" and seat["progress"] == 0
        return seat["pid"] == 0 or unused or seat["phase"] == "done"

    def _cannot_pause(self, rank: int) -> bool:
        """True if a worker pushes but takes no batches, so that it cannot be paused."""
        return self._view.board.seat(rank)["progress"] == 0

    def _warn_unpausable(self, unpausable: list[int]) -> None:
        if new := [rank for rank in unpausable if rank not in self._warned]:
            self._warned.update(new)
            warn_caller(
                f"checkpoint: {spell_ranks(new)} took no batch from worker.batches and cannot be "
                "paused: a push that is under way may be in checkpoints in part; take batches from "
                "worker.batches, or call worker.pull() before each forward pass"
            )

    def _snapshot(self) -> Snapshot:
        view = self._view
        # They have taken no batch since they handed over their state.
        settled = {r for r in range(view.workers) if view.board.seat(r)["phase"] == "done"}
        settled.update(view.board.parked)
        positions = view.board.positions()
        loops = begun(positions)
        now = [
            optimizer.ledger().since(then)
            for optimizer, then in zip(view.optimizers, self._ledgers, strict=True)
        ]
        return Snapshot.take(
            view.trained,
            ledger=add_ledgers(self._earlier, *now),
            positions=positions,
            loops=[
                {
                    loop: each
                    for loop, each in self._worker_states.loops(rank).items()
                    if loop in loops
                }
                for rank in range(view.workers)
            ],
            workers=[
                (self._worker_states.get if rank in settled else self._worker_states.collect)(rank)
                for rank in range(view.workers)
            ],
        )


class _Writer(threading.Thread):
    """Writes a snapshot."""

    def __init__(self, snapshot: Snapshot, directory: Directory, keep: int) -> None:
        super().__init__(name="asyncopt-checkpoint", daemon=True)
        self._write = (snapshot, directory, keep)
        self._problem: BaseException | None = None
        self.start()

    def run(self) -> None:
        snapshot, directory, keep = self._write
        try:
            snapshot.write(directory, keep)
        except BaseException as problem:
            self._problem = problem

    @property
    def is_done(self) -> bool:
        return not self.is_alive()

    def result(self) -> None:
        """Wait for the end; raise the writer's exception, if any."""
        self.join(LAST_WRITE)
        if self.is_alive():
            raise CheckpointError(
                f"checkpoint: expected the disk to take it within {LAST_WRITE:g} s, it did not"
            )
        if self._problem is not None:
            raise self._problem
