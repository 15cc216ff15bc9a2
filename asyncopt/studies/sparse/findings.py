"""Findings of a comparison on sparse problems: sentences derived from the rows."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt._install import command
from asyncopt.report.text import workers_text
from asyncopt.studies.findings import beside_blocking, preemption
from asyncopt.studies.recommend import Way, recommend
from asyncopt.studies.rows import Spread
from asyncopt.studies.sparse.problem import SERIAL, FitRow, SparseProblem
from asyncopt.studies.training.jobs import UNSHARED

RIVAL = "round-robin"  # the paper's
LOCK_FREE = ("hogwild", "atomic")  # under all others workers may wait for each other
SAME = 0.005  # of the main measure


def findings(problem: SparseProblem, rows: Sequence[FitRow], usable_cores: int) -> list[str]:
    """The fastest and its error; lock-free and blocking syncs; the paper's rival; libraries."""
    ours = [row for row in rows if row.sync and row.sync != UNSHARED]
    if not ours:
        return []
    counts = sorted({row.workers for row in ours})
    fitting = [count for count in counts if 1 < count <= usable_cores]
    fastest = min(ours, key=lambda row: row.seconds.median)
    pace = f"{fastest.seconds.median:.3g} s{_gained(fastest, ours)}"
    return [
        f"{_named(fastest)} was fastest: {pace}, {_reached(problem, fastest)}.",
        *_race(problem, ours),
        *(text for count in fitting[-1:] for text in _rival(ours, count)),
        *(text for count in sorted({*fitting[-1:], counts[-1]}) for text in _waiting(ours, count)),
        *_alone(ours, fitting),
        *_libraries(problem, rows, fastest),
        *_absent(problem),
        *preemption(counts, usable_cores),
    ]


def recommendation(problem: SparseProblem, rows: Sequence[FitRow], usable_cores: int) -> str:
    """What the rows of one problem speak for."""
    ours = [row for row in rows if row.sync and row.sync not in (UNSHARED, RIVAL)]
    serial, main = _serial(ours), problem.main

    def is_worse(row: FitRow) -> bool:
        if serial is None or row.workers == 1:
            return False
        return _worsening(problem, row, serial) > _noise(row.scores[main.name], serial, main.name)

    return recommend(
        [Way(str(row.sync), row.workers, row.seconds, is_worse(row)) for row in ours], usable_cores
    )


def _worsening(problem: SparseProblem, row: FitRow, serial: FitRow) -> float:
    """How far the main measure is worse than one worker's."""
    main = problem.main
    change = row.scores[main.name].median - serial.scores[main.name].median
    return -change if main.rising else change


def _noise(reached: Spread, serial: FitRow, measure: str) -> float:
    alone = serial.scores[measure]
    return max(SAME * abs(alone.median), alone.q3 - alone.q1, reached.q3 - reached.q1)


def _gained(fastest: FitRow, ours: Sequence[FitRow]) -> str:
    serial = _serial(ours)
    if serial is None or fastest is serial:
        return ""
    return f", {serial.seconds.median / fastest.seconds.median:.2f}x one worker ({SERIAL})"


def _race(problem: SparseProblem, ours: Sequence[FitRow]) -> list[str]:
    """Change of the main measure by sharing, against one worker."""
    serial = _serial(ours)
    if serial is None or not (several := [row for row in ours if row.workers > 1]):
        return []
    main = problem.main
    alone = serial.scores[main.name]
    worst = max(several, key=lambda row: _worsening(problem, row, serial))
    reached = worst.scores[main.name]
    if _worsening(problem, worst, serial) <= _noise(reached, serial, main.name):
        return [f"No sync's {main.heading} is worse than one worker's beyond the noise."]
    change = f"{main.text(reached.median)} instead of {main.text(alone.median)} of one worker"
    return [f"Sharing cost {_named(worst)} most: {main.heading} {change}."]


def _rival(ours: Sequence[FitRow], count: int) -> list[str]:
    """Hogwild beside its rival in the paper."""
    found = {row.sync: row for row in ours if row.workers == count}
    if RIVAL not in found or SERIAL not in found:
        return []
    ratio = _times(found[RIVAL], found[SERIAL])
    return [f"The paper's rival: {RIVAL} took {ratio} the time of {SERIAL}, {_with(count)}."]


def _waiting(ours: Sequence[FitRow], count: int) -> list[str]:
    """Lock-free syncs beside the fastest blocking one."""
    if count == 1:
        return []
    seconds = {str(row.sync): row.seconds for row in ours if row.workers == count}
    free = {sync: own for sync, own in seconds.items() if sync in LOCK_FREE}
    blocking = {sync: own for sync, own in seconds.items() if sync not in LOCK_FREE}
    return beside_blocking(free, blocking, f", {_with(count)}")


def _alone(ours: Sequence[FitRow], fitting: Sequence[int]) -> list[str]:
    """Syncs that are slower with more workers."""
    if not fitting:
        return []
    beaten = []
    for row in ours:
        alone = next((each for each in ours if (each.sync, each.workers) == (row.sync, 1)), None)
        if alone and row.workers == fitting[-1] and row.seconds.is_above(alone.seconds):
            beaten.append(f"{row.sync} ({_times(row, alone)} the time)")
    where = f"{workers_text(fitting[-1])} are slower than one worker of the same sync"
    return [f"{where} under {', '.join(beaten)}."] if beaten else []


def _libraries(problem: SparseProblem, rows: Sequence[FitRow], fastest: FitRow) -> list[str]:
    theirs = [row for row in rows if row.sync is None]
    best = [
        min((row for row in theirs if row.contender == label), key=lambda row: row.seconds.median)
        for label in dict.fromkeys(row.contender for row in theirs)
    ]
    if not best:
        return []
    listed = "; ".join(
        f"{_named(row)} {_times(row, fastest)}, {_reached(problem, row)}" for row in best
    )
    ahead = [row.contender for row in best if fastest.seconds.is_above(row.seconds)]
    return [
        f"Time of other libraries against {_named(fastest)}: {listed}.",
        *([f"Faster than asyncopt: {' and '.join(ahead)}."] if ahead else []),
    ]


def _absent(problem: SparseProblem) -> list[str]:
    labels = [library.label for library in problem.libraries if not library.installed]
    return [f"Not installed: {', '.join(labels)}; {command('peers')}."] if labels else []


def _serial(ours: Sequence[FitRow]) -> FitRow | None:
    return next((row for row in ours if (row.sync, row.workers) == (SERIAL, 1)), None)


def _reached(problem: SparseProblem, row: FitRow) -> str:
    main = problem.main
    return f"{main.heading} {main.text(row.scores[main.name].median)}"


def _times(row: FitRow, other: FitRow) -> str:
    return f"{row.seconds.median / other.seconds.median:.2f}x"


def _named(row: FitRow) -> str:
    return f"{row.contender} {_with(row.workers)}"


def _with(count: int) -> str:
    return f"with {workers_text(count)}"
