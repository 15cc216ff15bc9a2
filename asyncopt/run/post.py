"""One rank of a run, whoever fills it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from asyncopt.run.backoff import Backoff
from asyncopt.run.member import Member

__all__ = ["Post"]


@dataclass
class Post:
    """A rank, its worker, and what is known of both.

    Attributes:
        rank: the rank.
        backoff: the replacements that it has left.
        member: the worker that fills it, or was the last to do so.
        progress: that of the seat when this worker was started.
        ready_by: when a replacement must stand at the start barrier, on the monotonic clock in s.
        returned: when ``fn`` returned.
        due: when the lost worker is to be replaced; infinite if it is not lost.
        vacant: lost for good.
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
        """The worker, while anything is to be heard from it."""
        open_ = self.returned is None and not self.vacant and self.due == math.inf
        return self.member if open_ else None
