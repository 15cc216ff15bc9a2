"""Findings of the staleness study: sentences derived from the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asyncopt.report.text import times_text, workers_text
from asyncopt.studies.delayed.plan import SCALED, DelayRow, delay_text
from asyncopt.studies.delayed.problems import DelayedProblem
from asyncopt.studies.rows import Spread
from asyncopt.studies.training.jobs import CONSTANT

AS_FAR = 1.25  # times plain SGD's loss on training examples


def findings(problem: DelayedProblem, rows: Sequence[DelayRow]) -> list[str]:
    """Findings of one problem: delay by delay, then generalization."""
    for row in rows:
        if row.is_serial and not math.isfinite(row.scores[problem.main.name].median):
            return [f"{row.name} diverged, so nothing can be compared with it; lower --lr."]
    late = [row for row in rows if not row.is_serial]
    conditions = dict.fromkeys((row.delay, row.max_staleness) for row in late)
    sentences = [
        _condition(problem, [r for r in late if (r.delay, r.max_staleness) == condition])
        for condition in conditions
    ]
    return [*sentences, _generalization(rows)]


def recommendation(problem: DelayedProblem, rows: Sequence[DelayRow]) -> str:
    """The sync and schedule that lose least under the worst of the delays."""
    late = [row for row in rows if not row.is_serial]
    serial = [row.scores[problem.main.name].median for row in rows if row.is_serial]
    if not late or not all(map(math.isfinite, serial)):
        return ""
    worst = {
        name: max((row for row in late if row.name == name), key=_lost)
        for name in dict.fromkeys(row.name for row in late)
    }
    best = min(worst.values(), key=_lost)
    if _diverged(best):
        return "Every configuration diverged under a delay: lower --lr, or bound the staleness."
    even = Spread((1.0,) * len(best.ratio.values))
    if not any(_diverged(row) or row.ratio.is_above(even) for row in late):
        return (
            "These delays cost nothing beyond the noise here: choose the sync by its speed, and "
            "keep the schedule."
        )
    ended = f"{times_text(best.ratio.median)} {problem.worse} plain SGD"
    others = max(worst.values(), key=_lost)
    rest = "diverged" if _diverged(others) else f"ended {times_text(others.ratio.median)}"
    return (
        f"Under delays like these use {best.name}: at worst it ended {ended}, where {others.name} "
        f"{rest}."
    )


def _lost(row: DelayRow) -> float:
    return math.inf if _diverged(row) else row.ratio.median


def _condition(problem: DelayedProblem, rows: Sequence[DelayRow]) -> str:
    """The main measure under one delay and bound."""
    lead = _lead(rows)
    even = Spread((1.0,) * len(rows[0].ratio.values))
    worse = [row for row in rows if _diverged(row) or row.ratio.is_above(even)]
    if worse:
        return f"{lead}: {_worst(problem, worse, rows)}"
    better = [row for row in rows if even.is_above(row.ratio)]
    if better:
        best = min(better, key=lambda row: row.ratio.median)
        return (
            f"{lead}: no configuration was worse, and {best.name} ended "
            f"{times_text(best.ratio.median)} {problem.worse} plain SGD."
        )
    ratios = [row.ratio.median for row in rows]
    return (
        f"{lead}: no difference beyond the noise; all ended {times_text(min(ratios))} to "
        f"{times_text(max(ratios))} {problem.worse} plain SGD."
    )


def _lead(rows: Sequence[DelayRow]) -> str:
    """``4 workers, delay 0.002: staleness 3.0 on average, p99 5``."""
    first = rows[0]
    bound = "" if first.max_staleness is None else f", staleness {first.max_staleness} at most"
    found = [row.staleness for row in rows if row.staleness is not None]
    mean = sum(each.mean for each in found) / len(found)
    p99 = max(each.p99 for each in found)
    workers, delay = workers_text(first.workers), delay_text(first.delay)
    return f"{workers}, delay {delay}{bound}: staleness {mean:.1f} on average, p99 {p99:.0f}"


def _worst(problem: DelayedProblem, worse: Sequence[DelayRow], rows: Sequence[DelayRow]) -> str:
    """The worst row, and the effect of scaling its steps by staleness."""
    worst = max(worse, key=lambda row: (_diverged(row), row.ratio.median))
    verb = "was" if len(worse) == 1 else "were"
    text = f"{len(worse)} of {len(rows)} configurations {verb} worse than plain SGD; "
    if _diverged(worst):
        text += f"{worst.name} diverged."
    else:
        ended = f"{times_text(worst.ratio.median)} {problem.worse} plain SGD"
        text += f"the worst, {worst.name}, ended {ended}."
    same = {row.schedule: row.ratio.median for row in rows if row.sync == worst.sync}
    if CONSTANT in same and SCALED in same:
        text += (
            f" Dividing steps by 1 + staleness: {times_text(same[SCALED])} instead of "
            f"{times_text(same[CONSTANT])} for {worst.sync} with a constant rate."
        )
    return text


def _diverged(row: DelayRow) -> bool:
    return not math.isfinite(row.ratio.median)


def _generalization(rows: Sequence[DelayRow]) -> str:
    """The gap between test and train loss and the norm of the weights, beside plain SGD's.

    Only of configurations that trained about as far as plain SGD: an untrained model has no gap.
    """
    plain = {row.schedule: row for row in rows if row.is_serial}
    first = next(iter(plain.values()))
    gap, norm = first.scores["gap"].median, first.scores["norm"].median
    lead = (
        f"Plain SGD ({first.schedule}) has a gap of {gap:.3g} between test and train loss and "
        f"weights of norm {norm:.3g}"
    )

    def alone(row: DelayRow) -> DelayRow:
        return plain[CONSTANT if row.schedule == SCALED else row.schedule]

    changed = [
        row
        for row in rows
        if row.scores["train_loss"].median < AS_FAR * alone(row).scores["train_loss"].median
        and _stands_out(row.gap_change, alone(row).scores["gap"].median)
    ]
    if not changed:
        return f"{lead}; no configuration that trained as far under a delay has another gap."
    most = max(changed, key=lambda row: abs(row.gap_change.median))
    wider = "wider" if most.gap_change.median > 0 else "narrower"
    return (
        f"{lead}. Among those that trained as far, {most.name} under delay "
        f"{delay_text(most.delay)} has the most different gap: "
        f"{most.scores['gap'].median:.3g}, {wider} by "
        f"{abs(most.gap_change.median):.2g} than {alone(most).name}, with "
        f"{times_text(most.norm_ratio.median)} its norm."
    )


def _stands_out(change: Spread, of: float) -> bool:
    """True if 3 or more repeats agree in sign and the median exceeds their range and 2% of `of`."""
    low, high = min(change.values), max(change.values)
    enough = len(change.values) >= 3 and abs(change.median) > max(high - low, 0.02 * abs(of))
    return enough and (low > 0 or high < 0)
