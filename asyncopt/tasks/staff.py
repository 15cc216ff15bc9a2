"""A pool's worker process, as the pool sees it."""

from __future__ import annotations

from typing import IO, Any

from asyncopt.run.culprits import naming
from asyncopt.run.payload import Payload
from asyncopt.run.plan import Plan
from asyncopt.run.processes import SpawnedMember
from asyncopt.tasks.serve import Service

__all__ = ["Parcel", "TaskMember"]


class Parcel:
    """What every worker of a pool is sent.

    Shared memory goes by descriptor, so it can only be written while a process is being spawned.

    Args:
        isolated: whether no task sees what another one did to anything in the parcel: each is run
            by a process of its own, with private maps of the tensors.
        parts: ``fn``, ``tasks`` and ``data``, in this order.

    Attributes:
        isolated: the same.
    """

    def __init__(self, *, isolated: bool, **parts: Any) -> None:
        self.isolated = isolated
        self._parts = parts
        self._payload = Payload("data", private=isolated)

    def write(self, file: IO[bytes]) -> None:
        """Pickle everything.

        Raises:
            SegmentError: there is no room for tensors and arrays.
            TypeError: naming the part that cannot be pickled.
        """
        with naming(self._parts, "create it inside fn"):
            self._payload.dump(tuple(self._parts.values()), file)


class TaskMember(SpawnedMember):
    """A worker process that takes one task after the other.

    Attributes:
        index: number of the task that it was given last and has not ended; None: none.
        begun: whether it has called the function of that task.
        since: monotonic s at which it was started, was given its task, or was told to leave.
    """

    def __init__(self, rank: int, plan: Plan, parcel: Parcel, since: float) -> None:
        super().__init__(
            rank,
            plan,
            plan.seed,
            lambda line, box: Service(rank, plan.threads, line, box, plan.seed),
            lambda box: box.put(parcel.write),
        )
        self.index: int | None = None
        self.begun = False
        self.since = since
