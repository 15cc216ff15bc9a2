"""Bookkeeping of barriers, for processes and threads alike."""

from __future__ import annotations

import math

__all__ = ["Rendezvous", "spell_ranks"]


def spell_ranks(ranks: list[int]) -> str:
    """``[2]`` -> ``"worker 2"``, ``[0, 2]`` -> ``"workers 0, 2"``."""
    return f"worker{'s' if len(ranks) != 1 else ''} {', '.join(map(str, ranks))}"


class Rendezvous:
    """Ranks that arrived at a barrier, ranks that left the run, and the answers due.

    It knows neither processes nor threads nor the clock: the caller passes ``now`` in (seconds of
    one monotonic clock) and hands the answers out. Once broken it stays broken, as
    ``threading.Barrier`` does: workers that disagree on how many barriers they have passed must not
    train on.

    A replaced worker runs ``fn`` from its start, so it comes once more to barriers that the others
    have behind them: through those it walks without waiting.
    """

    def __init__(self, world_size: int) -> None:
        self._members = set(range(world_size))
        self._passed = 0  # barriers that all members have passed
        self._own = dict.fromkeys(range(world_size), 0)  # barriers that each one was let through
        self._deadlines: dict[int, float] = {}
        self._behind: set[int] = set()  # those who wait at a barrier that was passed already
        self._left: set[int] = set()
        self._broken = ""

    def arrive(self, rank: int, deadline: float) -> None:
        """Worker ``rank`` waits at its next barrier until ``deadline``."""
        if self._own[rank] < self._passed:
            self._behind.add(rank)
        else:
            self._deadlines[rank] = deadline

    def leave(self, rank: int) -> None:
        """Worker ``rank`` has returned and will arrive at no barrier any more."""
        self._left.add(rank)

    def restart(self, rank: int) -> None:
        """Worker ``rank`` has died; its replacement will come, and begin with the first barrier."""
        self._withdraw(rank)
        self._own[rank] = 0

    def lose(self, rank: int) -> None:
        """Worker ``rank`` has died and is not replaced: the others meet without it."""
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
        """Why those who wait need wait no longer; "" if they must."""
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
