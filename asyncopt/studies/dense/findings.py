"""Findings of a comparison: sentences derived from the rows."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.optim.kernels import syncs
from asyncopt.report.text import NOTHING, rate_text, share_text, workers_text
from asyncopt.studies.dense.plan import SyncRow
from asyncopt.studies.findings import beside_blocking, preemption
from asyncopt.studies.recommend import Way, recommend
from asyncopt.studies.rows import Spread
from asyncopt.studies.training.jobs import UNSHARED

POINTS = 0.015  # of accuracy: less is noise with a few hundred test images


def findings(rows: Sequence[SyncRow], usable_cores: int) -> list[str]:
    """Findings of one problem, for the largest worker count that the machine has cores for."""
    counts = sorted({row.workers for row in rows})
    fitting = [count for count in counts if count <= usable_cores] or counts[:1]
    chosen = [row for row in rows if row.workers == fitting[-1]]
    found = _contention(chosen) if rows[0].case else _training(chosen, rows)
    return [*found, *preemption(counts, usable_cores)]


def recommendation(rows: Sequence[SyncRow], usable_cores: int) -> str:
    """What the rows of one problem speak for; nothing where workers were killed."""
    contenders = [row for row in rows if row.sync and not row.audit]
    if not contenders or contenders[0].killed is not None:
        return ""
    if not contenders[0].case:
        worse = _worse(contenders, rows)
        ways = [
            Way(row.variant, row.workers, row.seconds, row in worse)
            for row in _by_guarantees(contenders)
        ]
        return recommend(ways, usable_cores)
    fitting = [row.workers for row in contenders if row.workers <= usable_cores]
    if not fitting:
        return ""
    chosen: dict[str, list[str]] = {}
    for case in dict.fromkeys(row.case for row in contenders):
        there = [row for row in contenders if (row.case, row.workers) == (case, max(fitting))]
        chosen.setdefault(_fastest(there), []).append(case)
    uses = "; ".join(f"{variant} for {', '.join(cases)}" for variant, cases in chosen.items())
    return (
        f"With {workers_text(max(fitting))} that push all the time, use {uses}: the fastest, or as "
        "fast within the spread and with stronger guarantees."
    )


def _by_guarantees(rows: Sequence[SyncRow]) -> list[SyncRow]:
    """Rows in the order of increasing guarantees of their syncs."""
    order = list(syncs())
    return sorted(rows, key=lambda row: order.index(str(row.sync)))


def _fastest(rows: Sequence[SyncRow]) -> str:
    """The variant with the most updates per second; of equals that with the most guarantees."""
    best = max(rows, key=lambda row: row.updates_per_second.median).updates_per_second
    level = [row for row in rows if not best.is_above(row.updates_per_second)]
    return _by_guarantees(level)[-1].variant


def may_block(row: SyncRow) -> bool:
    """True if a worker can wait for another under this row's sync."""
    return row.sync is not None and syncs()[row.sync]["may_block"]


def _contenders(rows: Sequence[SyncRow]) -> tuple[list[SyncRow], list[SyncRow]]:
    """(lock-free, blocking) rows, without audits and unshared ones."""
    real = [row for row in rows if row.sync and not row.audit]
    return [r for r in real if not may_block(r)], [r for r in real if may_block(r)]


def _training(rows: list[SyncRow], everything: Sequence[SyncRow]) -> list[str]:
    contenders = [row for row in rows if row.sync and not row.audit]
    if not contenders:
        return []
    if contenders[0].killed is not None:  # how long it took depends on who happened to be killed
        return [*_accuracy(contenders, everything), *_kills(everything)]
    fastest = min(contenders, key=lambda row: row.seconds.median)
    free, blocking = _contenders(rows)
    speedup = f", {fastest.speedup:.2f}x one worker" if fastest.speedup else ""
    pace = f"{fastest.seconds.median:.3g} s{speedup}"
    return [
        f"With {workers_text(fastest.workers)}, {fastest.variant} was fastest ({pace}).",
        *_ceiling(rows, fastest),
        *beside_blocking(_seconds(free), _seconds(blocking)),
        *_accuracy(contenders, everything),
        *_audit(rows),
    ]


def _seconds(rows: Sequence[SyncRow]) -> dict[str, Spread]:
    return {row.variant: row.seconds for row in rows}


def _ceiling(rows: list[SyncRow], fastest: SyncRow) -> list[str]:
    alone = next((row for row in rows if row.variant == UNSHARED), None)
    if alone is None or fastest.workers == 1:
        return []
    text = f"Workers that share nothing took {alone.seconds.median:.3g} s for the same work"
    if not fastest.seconds.is_above(alone.seconds):
        return [f"{text}: sharing had no measurable cost for {fastest.variant}."]
    share = alone.seconds.median / fastest.seconds.median
    return [f"{text}: {fastest.variant} reached {share:.0%} of that ceiling."]


def _accuracy(contenders: list[SyncRow], everything: Sequence[SyncRow]) -> list[str]:
    """Accuracy against one worker of the same sync."""
    alone = {row.variant: row.test_accuracy for row in everything if row.workers == 1}
    losses = []
    for row in contenders:
        base, reached = alone.get(row.variant), row.test_accuracy
        if base and reached and row.workers > 1:
            losses.append((base.median - reached.median, row.variant, base, reached))
    if not losses:
        return []
    worst, variant, base, reached = max(losses, key=lambda loss: loss[0])
    noise = _noise(base, reached)
    if worst <= noise:
        return [f"No sync lost accuracy against one worker (noise: {noise * 100:.1f} points)."]
    text = f"{variant} lost {worst * 100:.1f} points of accuracy against one worker "
    return [text + f"({reached.median:.1%}, was {base.median:.1%}), the most of all syncs."]


def _noise(base: Spread, reached: Spread) -> float:
    return max(POINTS, base.q3 - base.q1, reached.q3 - reached.q1)


def _worse(contenders: Sequence[SyncRow], everything: Sequence[SyncRow]) -> list[SyncRow]:
    """Rows whose accuracy is below that of one worker of the same sync by more than the noise."""
    alone = {row.variant: row.test_accuracy for row in everything if row.workers == 1}
    found = []
    for row in contenders:
        base, reached = alone.get(row.variant), row.test_accuracy
        if base and reached and base.median - reached.median > _noise(base, reached):
            found.append(row)
    return found


def _audit(rows: list[SyncRow]) -> list[str]:
    audited = next((row for row in rows if row.audit), None)
    plain = next((row for row in rows if row.sync == "hogwild" and not row.audit), None)
    if audited is None or plain is None or audited.workers == 1:
        return []
    cost = audited.seconds.median / plain.seconds.median
    share = share_text(audited.lost_share)
    text = f"Under hogwild, {audited.lost_updates or 0:,} element updates were lost ({share} of "
    return [text + f"those pushed); counting them took {cost:.2f}x the time."]


def _kills(everything: Sequence[SyncRow]) -> list[str]:
    """Kills and their consequences, over all contenders and worker counts."""
    killed = sum(row.killed or 0 for row in everything)
    shared = [row for row in everything if row.sync and row.killed is not None]
    if not shared:
        return []
    if not killed:
        return ["No worker was killed: the work ended before the first kill."]
    repairs = sum(row.repairs for row in everything)
    again = sum(row.trained_again for row in everything)
    worst = min(shared, key=lambda row: row.test_accuracy.median if row.test_accuracy else 1.0)
    reached = f"{worst.test_accuracy.median:.1%}" if worst.test_accuracy else NOTHING
    text = (
        f"{_counted(killed, 'worker')} killed at work and replaced, and every run finished: "
        f"{_counted(repairs, 'lock')} taken over from the dead, "
        f"{_counted(again, 'mini-batch', 'mini-batches')} pushed twice."
    )
    where = f"{worst.variant}, {workers_text(worst.workers)}"
    return [f"{text} The lowest accuracy of all is {reached} ({where})."]


def _contention(rows: list[SyncRow]) -> list[str]:
    beaten, led = [], []
    for case in dict.fromkeys(row.case for row in rows):
        free, blocking = _contenders([row for row in rows if row.case == case])
        if not free or not blocking:
            continue
        best = max(blocking, key=lambda row: row.updates_per_second.median)
        for row in free:
            ratio = row.updates_per_second.median / best.updates_per_second.median
            text = f"{row.variant} on {case} ({ratio:.2f}x {best.variant})"
            if best.updates_per_second.is_above(row.updates_per_second):
                beaten.append((ratio, text))
            elif row.updates_per_second.is_above(best.updates_per_second):
                led.append((ratio, text))
    workers = workers_text(rows[0].workers)
    sentences = []
    if led:
        best_texts = [text for _, text in sorted(led, reverse=True)[:3]]
        sentences.append(f"With {workers}, lock-free gained most for {'; '.join(best_texts)}.")
    if beaten:
        worst_texts = [text for _, text in sorted(beaten)[:3]]
        sentences.append(
            f"With {workers}, lock-free was slower than the fastest blocking sync in "
            f"{len(beaten)} of {len(beaten) + len(led)} pairings outside the spread, most for "
            f"{'; '.join(worst_texts)}."
        )
    losing = [row for row in rows if row.lost_updates and not row.audit]
    if losing:
        worst = max(losing, key=lambda row: row.lost_share or 0.0)
        sentences.append(
            f"Races cost updates: {worst.variant} lost up to {share_text(worst.lost_share)} of "
            f"its element updates ({worst.case}, {rate_text(worst.updates_per_second.median)} "
            "updates/s)."
        )
    return sentences


def _counted(count: int, one: str, many: str = "") -> str:
    """``1 lock was``, ``2 locks were``."""
    return f"1 {one} was" if count == 1 else f"{count:,} {many or one + 's'} were"
