"""The syncs in events: what each of ``src/asyncopt/sync/*.h`` does in memory, step by step."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from asyncopt.simulate.costs import Costs, LineCost
from asyncopt.simulate.memory import NOBODY, Clock, Lines, Lock, Steps, Tally, Word
from asyncopt.simulate.workload import Stretch, Workload

SEQLOCK_TRIES = 16
LEASHED_TRIES = 4


class Sync:
    """Shared state of the cores under one sync, and its push.

    Attributes:
        version: pushes taken.
        found: by core, the version that its last push found.
        pulled: by core, the version that its next gradient is computed from.
        tally: what pushes and pulls met.
        pending: seconds per core that other cores have cost it and that it has not spent yet.
    """

    def __init__(self, costs: Costs, workload: Workload, clock: Clock, cores: int) -> None:
        self.version = 0
        self.found = [0] * cores
        self.pulled = [0] * cores
        self.tally = Tally()
        self.pending = [0.0] * cores
        self._costs = costs
        self._workload = workload
        self._clock = clock
        self._lines = Lines(clock, workload.places)
        self._word = Word(clock, costs)  # version, sequence, or pointer to the latest version

    def push(self, core: int, stretches: Sequence[Stretch]) -> Steps:
        """Push by `core`; under a sync with replicas, pull after it."""
        raise NotImplementedError

    def _count(self, core: int) -> float:
        """The store takes the push; in place that is a pull, too. Seconds for the counter."""
        self.found[core] = self.version
        self.version += 1
        self.pulled[core] = self.version
        return self._word.visit(core)


class Hogwild(Sync):
    """Plain stores: core follows core through the lines."""

    def push(self, core: int, stretches: Sequence[Stretch]) -> Steps:
        """Update stretch after stretch, behind whoever is in there."""
        yield from self._walk(core, stretches, self._costs.update)

    def _walk(self, core: int, stretches: Sequence[Stretch], cost: LineCost) -> Steps:
        for stretch in stretches:
            each = self._lines.cost(core, stretch.place, cost)
            yield self._lines.pass_through(core, stretch, each)
        yield self._count(core)


class Atomic(Hogwild):
    """The same by compare-exchange; what has to be repeated is part of following."""

    def push(self, core: int, stretches: Sequence[Stretch]) -> Steps:
        """Update stretch after stretch, behind whoever is in there."""
        yield from self._walk(core, stretches, self._costs.exchange)


class Striped(Sync):
    """A lock for every stripe; who finds one held sleeps until after its release."""

    def __init__(self, costs: Costs, workload: Workload, clock: Clock, cores: int) -> None:
        super().__init__(costs, workload, clock, cores)
        # Dense stretches are some stripes each; lines drawn one by one share theirs with others.
        self._lines_each = 1 if workload.is_dense else workload.stripe_lines
        self._stripes = Lines(clock, -(-workload.places // self._lines_each))

    def push(self, core: int, stretches: Sequence[Stretch]) -> Steps:
        """Lock, update and unlock stripe after stripe."""
        costs, stripes = self._costs, self._stripes
        lock = LineCost(costs.lock, costs.lock + costs.transfer)
        for place, lines in stretches:
            stripe = place // self._lines_each
            yield from self._sleep_while_held(stripe)
            locks = -(-lines // self._workload.stripe_lines)
            each = lines / locks * self._lines.cost(core, place, costs.stripe)
            each += stripes.cost(core, stripe, lock)
            self._lines.take(core, place)
            yield stripes.pass_through(core, Stretch(stripe, locks), each)
        yield self._count(core)

    def _sleep_while_held(self, stripe: int) -> Steps:
        costs = self._costs
        while (held := self._stripes.busy(stripe)) > 0:
            self.tally.waits += 1
            if held <= costs.sleep:  # released before it is asleep
                yield costs.sleep
            else:
                self.pending[self._stripes.owner(stripe)] += costs.wake_call
                yield held + costs.wake


class Mutex(Sync):
    """A lock around each push."""

    def __init__(self, costs: Costs, workload: Workload, clock: Clock, cores: int) -> None:
        super().__init__(costs, workload, clock, cores)
        self._lock = Lock(clock, costs, self.tally)

    def push(self, core: int, stretches: Sequence[Stretch]) -> Steps:
        """Lock, update, unlock."""
        yield from self._lock.acquire(core)
        yield self._lines.sweep(core, stretches, self._costs.update)
        yield self._count(core)
        yield self._lock.release(core)


class Whole(Mutex):
    """Base of seqlock and leashed: whole versions, copied, and read by replicas."""

    def __init__(self, costs: Costs, workload: Workload, clock: Clock, cores: int) -> None:
        super().__init__(costs, workload, clock, cores)
        self._writer = NOBODY  # of the latest version

    def _copied(self, core: int, cost: LineCost) -> float:
        """Seconds for a copy of all lines, this core's own if it wrote the latest version."""
        is_own = self._writer in (core, NOBODY)
        return self._workload.lines * (cost.own if is_own else cost.remote)

    def _read(self, core: int, cost: LineCost) -> float:
        """Seconds for reading all lines: those that others wrote since are not here yet."""
        pushes = self.version - self.pulled[core] - (self._writer == core)
        stale = min(self._workload.lines, self._workload.touched * max(pushes, 0))
        return stale * cost.remote + (self._workload.lines - stale) * cost.own

    def _written(self, stretches: Sequence[Stretch]) -> float:
        """Seconds for updating lines that were just copied."""
        return sum(stretch.lines for stretch in stretches) * self._costs.update.own


class Seqlock(Whole):
    """Writers take turns and save the version before; readers copy, and again if one came in."""

    def __init__(self, costs: Costs, workload: Workload, clock: Clock, cores: int) -> None:
        super().__init__(costs, workload, clock, cores)
        self._sequence = 0  # odd while a push is written

    def push(self, core: int, stretches: Sequence[Stretch]) -> Steps:
        """Lock, save the version, update it, unlock; then read it until it stood still."""
        yield from self._lock.acquire(core)
        yield self._copied(core, self._costs.copy)
        self._sequence += 1
        yield self._word.visit(core) + self._written(stretches)
        self.found[core] = self.version
        self.version += 1
        self._writer = core
        self._sequence += 1
        yield self._word.visit(core) + self._lock.release(core)
        yield from self._pull(core)

    def _pull(self, core: int) -> Steps:
        for _ in range(SEQLOCK_TRIES):
            yield self._word.visit(core)
            before, version = self._sequence, self.version
            if before % 2 == 0:
                yield self._read(core, self._costs.snapshot)
                if self._sequence == before:
                    self.pulled[core] = version
                    return
            self.tally.retries += 1
        yield from self._lock.acquire(core)
        version = self.version
        yield self._read(core, self._costs.snapshot)
        self.pulled[core] = version
        yield self._lock.release(core)


class Leashed(Whole):
    """A version built aside, published if no other came out meanwhile; losers at last queue."""

    def __init__(self, costs: Costs, workload: Workload, clock: Clock, cores: int) -> None:
        super().__init__(costs, workload, clock, cores)
        self._claim = (cores - 1) * costs.transfer  # a look at what every other core is reading
        self._turn = False

    def push(self, core: int, stretches: Sequence[Stretch]) -> Steps:
        """Build and publish a version, a few times in a race, then in a queue; read the latest."""
        yield self._claim
        for _ in range(LEASHED_TRIES):
            if self._turn:
                break
            if (yield from self._attempt(core, stretches)):
                yield from self._pull(core)
                return
        yield from self._lock.acquire(core)
        self._turn = True
        while not (yield from self._attempt(core, stretches)):
            pass
        self._turn = False
        yield self._lock.release(core)
        yield from self._pull(core)

    def _attempt(
        self, core: int, stretches: Sequence[Stretch]
    ) -> Generator[float | None, None, bool]:
        """Build the next version, and publish it if its predecessor is the latest still."""
        latest = self.version
        yield self._word.visit(core) + self._copied(core, self._costs.copy)
        yield self._written(stretches)
        yield self._word.visit(core)
        if self.version != latest:
            self.tally.retries += 1
            return False
        self.found[core] = latest
        self.version += 1
        self._writer = core
        return True

    def _pull(self, core: int) -> Steps:
        version = self.version
        yield self._word.visit(core) + self._read(core, self._costs.copy)
        self.pulled[core] = version


#: By the names of `asyncopt.syncs()`.
SYNCS: dict[str, type[Sync]] = {
    "hogwild": Hogwild,
    "atomic": Atomic,
    "striped": Striped,
    "mutex": Mutex,
    "seqlock": Seqlock,
    "leashed": Leashed,
}
