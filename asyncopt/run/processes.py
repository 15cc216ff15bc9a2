"""A worker as a process."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from asyncopt.errors import RunTimeout
from asyncopt.run.child import Job
from asyncopt.run.entry import WorkerTask
from asyncopt.run.mailbox import Mailbox
from asyncopt.run.member import Member
from asyncopt.run.plan import Plan
from asyncopt.run.random_states import Stream
from asyncopt.run.spawn import WorkerProcess

__all__ = ["ProcessMember", "SpawnedMember"]


class SpawnedMember(Member):
    """A worker in a process of its own.

    Args:
        rank: its rank.
        plan: its threads and CPUs.
        seed: root of the random stream that the process uses before its job; None: drawn from the
            system.
        job: makes the process's entry point from its ends of the pipe and of the mailbox; the entry
            point is pickled.
        fill: fills the mailbox, while descriptors can be sent to the process.
    """

    box: Mailbox

    def __init__(
        self,
        rank: int,
        plan: Plan,
        seed: int | None,
        job: Callable[[Connection[Any, Any], Mailbox], Callable[[], None]],
        fill: Callable[[Mailbox], None],
    ) -> None:
        super().__init__(rank)
        self.box = box = Mailbox()
        self._patience = plan.start_timeout
        self._process = WorkerProcess(
            rank,
            job(self.far_end, box),
            environment={"OMP_NUM_THREADS": str(plan.threads)},
            cpus=plan.cpus(rank),
            before_start=lambda: fill(box),
            patience=plan.start_timeout,
            stream=Stream(seed),
            preload=plan.preload,
        )

    def start(self) -> None:
        """Start the process.

        Raises:
            TypeError: an object to be sent cannot be pickled.
            OSError: the system has no room for another process.
            ImportError: a module to preload cannot be imported.
            RunTimeout: torch could not be imported in time.
        """
        try:
            self._process.start()
        except TimeoutError as error:
            raise RunTimeout(
                f"start_timeout: expected worker {self.rank} to start within {self._patience:g} "
                "s, it did not; raise start_timeout= if importing torch takes longer",
                (self.rank,),
            ) from error
        self.far_end.close()  # so that the pipe closes when the process ends

    @property
    def task(self) -> int | None:
        """Its process id."""
        return self._process.pid

    @property
    def process_id(self) -> int | None:
        """The same; None after its end."""
        return self._process.pid if self.alive else None

    @property
    def exitcode(self) -> int | None:
        """Exit code; reading it reaps a dead process."""
        return self._process.exitcode

    @property
    def sentinel(self) -> int | None:
        """A pidfd."""
        return self._process.sentinel

    def failure(self) -> tuple[str, str, BaseException | None]:
        """Read the failure from the mailbox."""
        message, traceback, pickled = self.box.take()
        cause = None
        if pickled is not None:
            with contextlib.suppress(Exception):  # its class may exist only in the worker
                cause = pickle.loads(pickled)
        return message, traceback, cause

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> bool:
        """Send SIGKILL."""
        self._process.kill()
        return True

    def join(self, timeout: float) -> None:
        """Wait, and reap."""
        if self._process.pid is not None:
            self._process.join(timeout)

    def close(self) -> None:
        """Close descriptors."""
        with contextlib.suppress(ValueError):  # not even SIGKILL ended it
            self._process.close()
        self.pipe.close()
        self.far_end.close()
        self.box.close()


class ProcessMember(SpawnedMember):
    """A worker of a run in a process.

    Args:
        rank: its rank.
        task: its task; it is pickled when the process starts.
        life: number of earlier workers of this rank in the run.
    """

    def __init__(self, rank: int, task: WorkerTask, life: int) -> None:
        plan, stream = task.plan, Stream(task.seed, (rank, life))
        super().__init__(
            rank,
            plan,
            task.seed,
            lambda line, box: Job(rank, plan.threads, plan.start_timeout, line, box, stream),
            lambda box: box.put_task(task),
        )
