"""State of one rank across restarts of its worker."""

from __future__ import annotations

import math
from dataclasses import dataclass

from asyncopt.run.backoff import Backoff
from asyncopt.run.member import Member

__all__ = ["RankState"]


@dataclass
class RankState:
    """A rank, its worker, and their state.

    Attributes:
        rank: the rank.
        backoff: delays and remaining number of replacements.
        member: its current or last worker.
        progress: the seat's progress when this worker was started.
        ready_by: deadline for a replacement to reach the start barrier, monotonic clock in s.
        returned: when ``fn`` returned.
        due: when the lost worker is to be replaced; infinite if it is not lost.
        vacant: True if the worker is lost and not replaced.
        restarts: replacements so far.
    """

    rank: int
    backoff: Backoff
    member: Member | None = None
    progress: int = 0
    ready_by: float = math.inf
    returned: float | None = None
    due: float = math.inf
    vacant: bool = False
    restarts: int = 0

    @property
    def filled(self) -> Member | None:
        """The worker, while messages from it are expected."""
        open_ = self.returned is None and not self.vacant and self.due == math.inf
        return self.member if open_ else None
