"""The barrier's bookkeeping, apart from how workers are told: one object for both back ends."""

from __future__ import annotations

import math

__all__ = ["Rendezvous", "spell_ranks"]


def spell_ranks(ranks: list[int]) -> str:
    """``[2]`` -> ``"worker 2"``, ``[0, 2]`` -> ``"workers 0, 2"``."""
    return f"worker{'s' if len(ranks) != 1 else ''} {', '.join(map(str, ranks))}"


class Rendezvous:
    """Who has arrived at the barrier, who has left the run, and whom to answer.

    It knows neither processes nor threads nor the clock: the caller passes ``now`` in (seconds of
    one monotonic clock) and hands the answers out. Once broken it stays broken, as
    ``threading.Barrier`` does: workers that disagree on how many barriers they have passed must not
    train on.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._deadlines: dict[int, float] = {}
        self._left: set[int] = set()
        self._broken = ""

    def arrive(self, rank: int, deadline: float) -> None:
        """Worker ``rank`` waits at the barrier until ``deadline``."""
        self._deadlines[rank] = deadline

    def leave(self, rank: int) -> None:
        """Worker ``rank`` has returned and will arrive at no barrier any more."""
        self._left.add(rank)

    @property
    def deadline(self) -> float:
        """When ``settle`` has to be called next though nobody arrives; infinite if nobody waits."""
        return min(self._deadlines.values(), default=math.inf)

    def settle(self, now: float) -> dict[int, str]:
        """The waiting workers that can be answered: rank -> "" (go on) or why the barrier broke."""
        waiting = sorted(self._deadlines)
        if not waiting:
            return {}
        missing = [rank for rank in range(self._world_size) if rank not in self._deadlines]
        if missing and not self._broken:
            gone = [rank for rank in missing if rank in self._left]
            if gone:
                self._broken = (
                    f"barrier: expected all {self._world_size} workers, but {spell_ranks(gone)} "
                    f"returned without it; call barrier() equally often in every worker"
                )
            elif self.deadline <= now:
                self._broken = (
                    f"barrier: expected all {self._world_size} workers within the timeout, "
                    f"{spell_ranks(missing)} did not come; raise timeout= if that can take longer"
                )
            else:
                return {}
        self._deadlines.clear()
        return dict.fromkeys(waiting, self._broken)
