"""Sentences that say what a study found, from the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asyncopt.studies.delayed.plan import SCALED
from asyncopt.studies.delayed.results import Row, delay_text, times
from asyncopt.studies.delayed.subject import Subject
from asyncopt.studies.results import Spread
from asyncopt.studies.training.schedules import CONSTANT

AS_FAR = 1.25  # times plain SGD's loss on training examples


def findings(subject: Subject, rows: Sequence[Row]) -> list[str]:
    """What one problem's rows say: delay by delay, then of generalization."""
    for row in rows:
        if row.is_serial and not math.isfinite(row.scores[subject.main.name].median):
            return [f"{row.name} diverged, and nothing can be compared with it: lower --lr."]
    late = [row for row in rows if not row.is_serial]
    conditions = dict.fromkeys((row.delay, row.max_staleness) for row in late)
    sentences = [
        _condition(subject, [r for r in late if (r.delay, r.max_staleness) == condition])
        for condition in conditions
    ]
    return [*sentences, _generalization(rows)]


def _condition(subject: Subject, rows: Sequence[Row]) -> str:
    """What became of the main measure under one delay and bound."""
    lead = _lead(rows)
    even = Spread((1.0,) * len(rows[0].ratio.values))
    worse = [row for row in rows if _diverged(row) or row.ratio.is_above(even)]
    if worse:
        return f"{lead}: {_worst(subject, worse, rows)}"
    better = [row for row in rows if even.is_above(row.ratio)]
    if better:
        best = min(better, key=lambda row: row.ratio.median)
        return (
            f"{lead}: it harmed nothing, and {best.name} ended {times(best.ratio.median)} "
            f"{subject.worse} plain SGD."
        )
    ratios = [row.ratio.median for row in rows]
    return (
        f"{lead}: nothing stands out of the noise, all ended {times(min(ratios))} to "
        f"{times(max(ratios))} {subject.worse} plain SGD."
    )


def _lead(rows: Sequence[Row]) -> str:
    """``4 workers, delay 0.002: staleness 3.0 on average, p99 5``."""
    first = rows[0]
    bound = "" if first.max_staleness is None else f", staleness {first.max_staleness} at most"
    found = [row.staleness for row in rows if row.staleness is not None]
    mean = sum(each.mean for each in found) / len(found)
    p99 = max(each.p99 for each in found)
    workers = f"{first.workers} worker{'s' if first.workers > 1 else ''}"
    delay = delay_text(first.delay)
    return f"{workers}, delay {delay}{bound}: staleness {mean:.1f} on average, p99 {p99:.0f}"


def _worst(subject: Subject, worse: Sequence[Row], rows: Sequence[Row]) -> str:
    """The row that lost most, and what scaling its steps by staleness does."""
    worst = max(worse, key=lambda row: (_diverged(row), row.ratio.median))
    if _diverged(worst):
        text = f"{worst.name} diverged, the first of {len(worse)} that were worse"
    else:
        ended = f"ended {times(worst.ratio.median)} {subject.worse} plain SGD"
        text = f"{worst.name} {ended}, the most of {len(worse)} that were worse"
    text += f" (of {len(rows)})."
    same = {row.schedule: row.ratio.median for row in rows if row.sync == worst.sync}
    if CONSTANT in same and SCALED in same:
        text += (
            f" Dividing steps by 1 + staleness: {times(same[SCALED])} instead of "
            f"{times(same[CONSTANT])} for {worst.sync} with a constant rate."
        )
    return text


def _diverged(row: Row) -> bool:
    return not math.isfinite(row.ratio.median)


def _generalization(rows: Sequence[Row]) -> str:
    """The gap between test and train loss and the norm of the weights, beside plain SGD's.

    Of what trained about as far as plain SGD: who has learned nothing has no gap.
    """
    plain = {row.schedule: row for row in rows if row.is_serial}
    first = next(iter(plain.values()))
    gap, norm = first.scores["gap"].median, first.scores["norm"].median
    lead = (
        f"Plain SGD ({first.schedule}) has a gap of {gap:.3g} between test and train loss and "
        f"weights of norm {norm:.3g}"
    )

    def alone(row: Row) -> Row:
        return plain[CONSTANT if row.schedule == SCALED else row.schedule]

    changed = [
        row
        for row in rows
        if row.scores["train_loss"].median < AS_FAR * alone(row).scores["train_loss"].median
        and _stands_out(row.gap_change, alone(row).scores["gap"].median)
    ]
    if not changed:
        return f"{lead}; what trained as far under a delay has no other gap beyond the noise."
    most = max(changed, key=lambda row: abs(row.gap_change.median))
    wider = "wider" if most.gap_change.median > 0 else "narrower"
    return (
        f"{lead}. Of what trained as far, {most.name} under delay {delay_text(most.delay)} has the "
        f"most different gap: {most.scores['gap'].median:.3g}, {wider} by "
        f"{abs(most.gap_change.median):.2g} than {alone(most).name}, with "
        f"{times(most.norm_ratio.median)} its norm."
    )


def _stands_out(change: Spread, of: float) -> bool:
    """All repeats changed to one side, by more than they differ, and by more than 2% of `of`."""
    low, high = min(change.values), max(change.values)
    enough = len(change.values) >= 3 and abs(change.median) > max(high - low, 0.02 * abs(of))
    return enough and (low > 0 or high < 0)
