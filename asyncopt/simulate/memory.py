"""Simulated time and shared memory: words, a robust lock, and the cache lines of a vector."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import count

from asyncopt.simulate.costs import Costs, LineCost
from asyncopt.simulate.workload import Stretch

#: A core's program: it yields seconds to wait, or `ASLEEP` to wait for a wake-up.
Steps = Generator[float | None, None, None]
ASLEEP = None
NOBODY = -1


class Clock:
    """Event queue that runs cores in the order of time; ties in the order of insertion."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, int]] = []
        self._order = count()
        self._cores: list[Steps] = []

    def add(self, steps: Steps) -> None:
        """Add a core that starts now."""
        self._cores.append(steps)
        self.wake(len(self._cores) - 1, 0.0)

    def wake(self, core: int, seconds: float) -> None:
        """Resume a core after the given seconds."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), core))

    def step(self) -> None:
        """The next event."""
        self.now, _, core = heapq.heappop(self._events)
        seconds = next(self._cores[core])
        if seconds is not ASLEEP:
            self.wake(core, seconds)


class Word:
    """A word on its own cache line, which one core at a time can access."""

    def __init__(self, clock: Clock, costs: Costs) -> None:
        self._clock = clock
        self._transfer = costs.transfer
        self._owner = NOBODY
        self._free = 0.0

    def visit(self, core: int) -> float:
        """Seconds until `core` has changed it."""
        now = self._clock.now
        self._free = max(self._free, now) + (0.0 if core == self._owner else self._transfer)
        self._owner = core
        return self._free - now


@dataclass
class Tally:
    """Counts of contention of pushes and pulls.

    Attributes:
        waits: locks that were not free at once.
        retries: versions and snapshots that were discarded.
    """

    waits: int = 0
    retries: int = 0


class Lock:
    """``RobustMutex``: one try, then sleep. A new arrival may take it before a woken waiter."""

    def __init__(self, clock: Clock, costs: Costs, tally: Tally) -> None:
        self._tally = tally
        self._clock = clock
        self._costs = costs
        self._word = Word(clock, costs)
        self._held = False
        self._contended = False  # whoever releases it has to wake somebody
        self._sleepers: deque[int] = deque()

    def acquire(self, core: int) -> Steps:
        """Until `core` holds it."""
        yield self._costs.lock + self._word.visit(core)
        if not self._held:
            self._held = True
            return
        self._tally.waits += 1
        yield self._costs.sleep
        while self._held:
            self._contended = True
            self._sleepers.append(core)
            yield ASLEEP
            yield self._word.visit(core)
            # As in glibc: a woken waiter must assume that others still sleep.
            self._contended = True
        self._held = True

    def release(self, core: int) -> float:
        """Free at once; the seconds that `core` spends on it and on waking who sleeps."""
        contended, self._held, self._contended = self._contended, False, False
        seconds = self._word.visit(core)
        if not contended:
            return seconds
        if not self._sleepers:
            return seconds + self._costs.sleep
        self._clock.wake(self._sleepers.popleft(), self._costs.wake)
        return seconds + self._costs.wake_call


class Lines:
    """Cache lines, or locks of stripes, in stretches, with the last owner of each stretch."""

    def __init__(self, clock: Clock, places: int) -> None:
        self._clock = clock
        self._owner = [NOBODY] * places
        self._entered = [0.0] * places  # when the first of a stretch is free again
        self._left = [0.0] * places  # and when the last one is

    def cost(self, core: int, place: int, cost: LineCost) -> float:
        """Seconds for a line of a stretch. Lines without an owner count as own: caches are warm."""
        return cost.own if self._owner[place] in (core, NOBODY) else cost.remote

    def pass_through(self, core: int, stretch: Stretch, each: float) -> float:
        """Seconds until `core` has been through it, one after the other, each for so long.

        Nothing serves two at once: who comes while another core is inside stays one behind.
        """
        place, lines = stretch
        now = self._clock.now
        begin = max(now, self._entered[place])
        end = max(begin + lines * each, self._left[place] + each)
        self._entered[place] = begin + each
        self._left[place] = end
        self.take(core, place)
        return end - now

    def take(self, core: int, place: int) -> None:
        """Make `core` the owner."""
        self._owner[place] = core

    def sweep(self, core: int, stretches: Iterable[Stretch], cost: LineCost) -> float:
        """Seconds that they take a core without contention."""
        seconds = 0.0
        for place, lines in stretches:
            seconds += lines * self.cost(core, place, cost)
            self.take(core, place)
        return seconds

    def busy(self, place: int) -> float:
        """Seconds until the first of a stretch is free."""
        return max(0.0, self._entered[place] - self._clock.now)

    def owner(self, place: int) -> int:
        """The core that had a stretch last."""
        return self._owner[place]
