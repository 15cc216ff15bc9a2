"""A worker as a process."""

from __future__ import annotations

import contextlib
import pickle

from asyncopt.run.child import Job
from asyncopt.run.life import Errand
from asyncopt.run.mailbox import Mailbox
from asyncopt.run.member import Member
from asyncopt.run.spawn import WorkerProcess

__all__ = ["ProcessMember"]


class ProcessMember(Member):
    """A worker in a spawned process.

    Args:
        rank: its rank.
        errand: what it is to do; it is pickled when the process starts.
    """

    box: Mailbox

    def __init__(self, rank: int, errand: Errand) -> None:
        super().__init__(rank)
        plan = errand.plan
        self.box = Mailbox()
        self._process = WorkerProcess(
            rank,
            Job(rank, plan.threads, plan.start_timeout, self.far_end, self.box),
            environment={"OMP_NUM_THREADS": str(plan.threads)},
            cpus=plan.cpus(rank),
            before_exec=lambda: self.box.put_errand(errand),
        )

    def start(self) -> None:
        """Spawn the process.

        Raises:
            TypeError: ``fn`` or one of ``args`` cannot be sent to a process.
            OSError: the system has no room for another process.
        """
        self._process.start()
        self.far_end.close()  # so that the line hangs up when the process ends

    @property
    def task(self) -> int | None:
        """Its process id."""
        return self._process.pid

    @property
    def process_id(self) -> int | None:
        """The same while it lives."""
        return self._process.pid if self.alive else None

    @property
    def exitcode(self) -> int | None:
        """Looking at it reaps a dead process."""
        return self._process.exitcode

    @property
    def sentinel(self) -> int | None:
        """A pidfd."""
        return self._process.sentinel

    def failure(self) -> tuple[str, str, BaseException | None]:
        """From the mailbox."""
        message, traceback, pickled = self.box.take()
        cause = None
        if pickled is not None:
            with contextlib.suppress(Exception):  # its class may exist in the worker only
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
