"""A pool's worker process, as the pool sees it."""

from __future__ import annotations

from typing import IO, Any

from asyncopt.errors import AsyncoptError, SegmentError
from asyncopt.methods.serve import Service
from asyncopt.run.arrays import SharedArrays
from asyncopt.run.mailbox import unpicklable
from asyncopt.run.plan import Plan
from asyncopt.run.processes import SpawnedMember

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
            name, _ = unpicklable(self._parts) or (", ".join(self._parts), None)
            raise TypeError(
                f"{name}: expected an object that pickle can send to another process "
                f"({error}); define functions and classes at the top level of a module"
            ) from error


class TaskMember(SpawnedMember):
    """A worker process that takes one task after the other.

    Attributes:
        index: number of the task that it is working on; None: none.
        since: monotonic s at which it was started, was given its task, or was told to leave.
    """

    def __init__(self, rank: int, plan: Plan, parcel: Parcel, since: float) -> None:
        super().__init__(
            rank,
            plan,
            lambda line, box: Service(rank, plan.threads, line, box),
            lambda box: box.put(parcel.write),
        )
        self.index: int | None = None
        self.since = since
