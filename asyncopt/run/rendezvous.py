"""Bookkeeping of barriers, for processes and threads alike."""

from __future__ import annotations

import math

__all__ = ["Rendezvous", "spell_ranks"]


def spell_ranks(ranks: list[int]) -> str:
    """``[2]`` -> ``"worker 2"``, ``[0, 2]`` -> ``"workers 0, 2"``."""
    return f"worker{'s' if len(ranks) != 1 else ''} {', '.join(map(str, ranks))}"


class Rendezvous:
    """Ranks that arrived at a barrier, ranks that left the run, and the answers due.

    It is independent of processes, threads and the clock: the caller passes ``now`` (seconds of one
    monotonic clock) and delivers the answers. Once broken it stays broken, like
    ``threading.Barrier``: workers that passed different numbers of barriers must not go on
    training.

    A replacement runs ``fn`` from its start, so it reaches barriers that the others have passed; it
    passes those without waiting.
    """

    def __init__(self, world_size: int) -> None:
        self._members = set(range(world_size))
        self._passed = 0  # barriers that all members have passed
        self._own = dict.fromkeys(range(world_size), 0)  # barriers that each rank has passed
        self._deadlines: dict[int, float] = {}
        self._behind: set[int] = set()  # ranks at a barrier that the others have passed
        self._left: set[int] = set()
        self._broken = ""

    def arrive(self, rank: int, deadline: float) -> None:
        """Record that worker ``rank`` waits at its next barrier until ``deadline``."""
        if self._own[rank] < self._passed:
            self._behind.add(rank)
        else:
            self._deadlines[rank] = deadline

    def leave(self, rank: int) -> None:
        """Record that worker ``rank`` has returned and will reach no further barrier."""
        self._left.add(rank)

    def restart(self, rank: int) -> None:
        """Record that worker ``rank`` died; its replacement starts with the first barrier."""
        self._withdraw(rank)
        self._own[rank] = 0

    def lose(self, rank: int) -> None:
        """Record that worker ``rank`` died and is not replaced: barriers no longer wait for it."""
        self._withdraw(rank)
        self._members.discard(rank)

    def _withdraw(self, rank: int) -> None:
        self._deadlines.pop(rank, None)
        self._behind.discard(rank)

    @property
    def waiting(self) -> set[int]:
        """Ranks that wait at the barrier."""
        return set(self._deadlines)

    @property
    def deadline(self) -> float:
        """Time by which ``settle`` must be called next; infinite if no rank waits."""
        return min(self._deadlines.values(), default=math.inf)

    def settle(self, now: float) -> dict[int, str]:
        """Answers that are due: "" to continue, or the reason why the barrier broke, by rank."""
        answers = dict.fromkeys(self._behind, "")
        self._behind.clear()
        missing = sorted(self._members - self._deadlines.keys())
        if self._deadlines and missing and not self._broken:
            self._broken = self._complaint(missing, now)
        if self._deadlines and (self._broken or not missing):
            answers |= dict.fromkeys(sorted(self._deadlines), self._broken)
            self._deadlines.clear()
            self._passed += not self._broken
        for rank in answers:
            self._own[rank] += 1
        return answers

    def _complaint(self, missing: list[int], now: float) -> str:
        """Why the barrier is broken; "" if the waiting ranks must go on waiting."""
        expected = f"barrier: expected all {len(self._members)} workers"
        if gone := [rank for rank in missing if rank in self._left]:
            return (
                f"{expected}, but {spell_ranks(gone)} returned without it; "
                f"call barrier() equally often in every worker"
            )
        if self.deadline <= now:
            return (
                f"{expected} within the timeout, {spell_ranks(missing)} did not come; "
                f"raise timeout= if that can take longer"
            )
        return ""
