"""A pool's worker process, as the pool sees it."""

from __future__ import annotations

import io
from collections.abc import Callable
from multiprocessing import reduction
from typing import IO, Any

from asyncopt.errors import AsyncoptError, SegmentError
from asyncopt.methods.serve import Service
from asyncopt.run.arrays import SharedArrays
from asyncopt.run.mailbox import Mailbox
from asyncopt.run.member import Member
from asyncopt.run.plan import Plan
from asyncopt.run.processes import ProcessMember
from asyncopt.run.spawn import WorkerProcess

__all__ = ["Parcel", "TaskMember"]


class Parcel:
    """What every worker of a pool is sent.

    Tensors go by descriptor, large arrays as one copy for all workers, so it can only be written
    while a process is being spawned.

    Args:
        parts: ``fn``, ``tasks`` and ``data``, in this order.
    """

    def __init__(self, **parts: Any) -> None:
        self._parts = parts
        self._arrays = SharedArrays()

    def write(self, file: IO[bytes]) -> None:
        """Pickle everything.

        Raises:
            SegmentError: there is no room for the tensors.
            TypeError: naming the part that cannot be pickled.
        """
        try:
            self._arrays.pickler(file).dump(tuple(self._parts.values()))
        except (OSError, MemoryError, AsyncoptError):
            raise
        except Exception as error:
            if "shared memory" in str(error):
                raise SegmentError(
                    f"data: tensors cannot be moved to shared memory ({error}); enlarge /dev/shm, "
                    f"or pass numpy arrays, which do not need it"
                ) from error
            raise TypeError(
                f"{self._culprit()}: expected an object that pickle can send to another process "
                f"({error}); define functions and classes at the top level of a module"
            ) from error

    def _culprit(self) -> str:
        for name, part in self._parts.items():
            try:
                reduction.ForkingPickler(io.BytesIO()).dump(part)
            except Exception:
                return name
        return ", ".join(self._parts)


class _Mailbox(Mailbox):
    def put_parcel(self, write: Callable[[IO[bytes]], object]) -> None:
        """Put in what the worker is sent at its start."""
        self._write(write)


class TaskMember(ProcessMember):
    """A worker process that takes one task after the other.

    Attributes:
        index: number of the task that it is working on; None: none.
        since: monotonic s at which it was started, was given its task, or was told to leave.
    """

    def __init__(self, rank: int, plan: Plan, parcel: Parcel, since: float) -> None:
        Member.__init__(self, rank)
        self.index: int | None = None
        self.since = since
        self.box = mailbox = _Mailbox()
        self._process = WorkerProcess(
            rank,
            Service(rank, plan.threads, self.far_end, mailbox),
            environment={"OMP_NUM_THREADS": str(plan.threads)},
            cpus=plan.cpus(rank),
            before_exec=lambda: mailbox.put_parcel(parcel.write),
        )
