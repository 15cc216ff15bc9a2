"""Sentences that say what a comparison found, and where lock-free loses, from the numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.optim.kernels import syncs
from asyncopt.report.text import NOTHING, rate_text, share_text
from asyncopt.studies.dense.plan import UNSHARED
from asyncopt.studies.results import Row

POINTS = 0.015  # of accuracy: what a few hundred test images cannot tell apart


def findings(rows: Sequence[Row], usable_cores: int) -> list[str]:
    """What one problem's rows say, for the largest worker count that the machine has cores for."""
    counts = sorted({row.workers for row in rows})
    fitting = [count for count in counts if count <= usable_cores] or counts[:1]
    chosen = [row for row in rows if row.workers == fitting[-1]]
    sentences = _contention(chosen) if rows[0].case else _training(chosen, rows)
    return [*sentences, *preemption(counts, usable_cores)]


def preemption(counts: Sequence[int], usable_cores: int) -> list[str]:
    """What worker counts beyond the cores mean."""
    if max(counts) <= usable_cores:
        return []
    text = f"More workers than the {usable_cores} usable cores show what preemption inside an "
    return [text + "update does, not scaling."]


def may_block(row: Row) -> bool:
    """Whether a worker can wait for another under this row's sync."""
    return row.sync is not None and syncs()[row.sync]["may_block"]


def _contenders(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(lock-free, blocking) rows, without audits and unshared ones."""
    real = [row for row in rows if row.sync and not row.audit]
    return [r for r in real if not may_block(r)], [r for r in real if may_block(r)]


def _training(rows: list[Row], everything: Sequence[Row]) -> list[str]:
    contenders = [row for row in rows if row.sync and not row.audit]
    if not contenders:
        return []
    if contenders[0].killed is not None:  # how long it took depends on who happened to be killed
        return [*_accuracy(contenders, everything), *_kills(everything)]
    fastest = min(contenders, key=lambda row: row.seconds.median)
    speedup = f", {fastest.speedup:.2f}x one worker" if fastest.speedup else ""
    pace = f"{fastest.seconds.median:.3g} s{speedup}"
    return [
        f"With {_workers(fastest.workers)}, {fastest.variant} was fastest ({pace}).",
        *_ceiling(rows, fastest),
        *_lock_free_or_not(rows),
        *_accuracy(contenders, everything),
        *_audit(rows),
    ]


def _ceiling(rows: list[Row], fastest: Row) -> list[str]:
    alone = next((row for row in rows if row.variant == UNSHARED), None)
    if alone is None or fastest.workers == 1:
        return []
    text = f"Workers that share nothing took {alone.seconds.median:.3g} s for the same work"
    if not fastest.seconds.is_above(alone.seconds):
        return [f"{text}: sharing cost {fastest.variant} nothing that stands out of the noise."]
    share = alone.seconds.median / fastest.seconds.median
    return [f"{text}: {fastest.variant} reached {share:.0%} of that ceiling."]


def _lock_free_or_not(rows: list[Row]) -> list[str]:
    """Where lock-free loses to a sync that may block, by more than the spread; where it wins."""
    free, blocking = _contenders(rows)
    if not free or not blocking:
        return []
    best = min(blocking, key=lambda row: row.seconds.median)
    beaten = [row for row in free if row.seconds.is_above(best.seconds)]
    ahead = [row for row in free if best.seconds.is_above(row.seconds)]
    sentences = []
    if beaten:
        names = " and ".join(
            f"{row.variant} ({row.seconds.median / best.seconds.median - 1:.0%} slower)"
            for row in beaten
        )
        sentences.append(
            f"Lock-free lost here: {names} fell behind {best.variant}, the fastest sync that may "
            "wait for other workers."
        )
    if ahead:
        names = " and ".join(row.variant for row in ahead)
        sentences.append(
            f"Lock-free won here: {names} beat {best.variant}, the fastest sync that may wait for "
            "other workers, by more than the spread."
        )
    ties = [row.variant for row in free if row not in beaten and row not in ahead]
    if ties:
        sentences.append(
            f"A tie: {' and '.join(ties)} (lock-free) and {best.variant} (may wait for other "
            "workers) are within the spread of the repeats."
        )
    return sentences


def _accuracy(contenders: list[Row], everything: Sequence[Row]) -> list[str]:
    """Accuracy against one worker of the same sync: what the speed cost."""
    alone = {row.variant: row.test_accuracy for row in everything if row.workers == 1}
    losses = []
    for row in contenders:
        base, reached = alone.get(row.variant), row.test_accuracy
        if base and reached and row.workers > 1:
            losses.append((base.median - reached.median, row.variant, base, reached))
    if not losses:
        return []
    worst, variant, base, reached = max(losses, key=lambda loss: loss[0])
    noise = max(POINTS, base.q3 - base.q1, reached.q3 - reached.q1)
    if worst <= noise:
        return [f"No sync lost accuracy against one worker (noise: {noise * 100:.1f} points)."]
    text = f"{variant} lost {worst * 100:.1f} points of accuracy against one worker "
    return [text + f"({reached.median:.1%}, was {base.median:.1%}), the most of all syncs."]


def _audit(rows: list[Row]) -> list[str]:
    audited = next((row for row in rows if row.audit), None)
    plain = next((row for row in rows if row.sync == "hogwild" and not row.audit), None)
    if audited is None or plain is None or audited.workers == 1:
        return []
    cost = audited.seconds.median / plain.seconds.median
    share = share_text(audited.lost_share)
    text = f"Under hogwild, {audited.lost_updates or 0:,} element updates were lost ({share} of "
    return [text + f"those pushed); counting them took {cost:.2f}x the time."]


def _kills(everything: Sequence[Row]) -> list[str]:
    """What it came to that workers were killed, over all contenders and worker counts."""
    killed = sum(row.killed or 0 for row in everything)
    shared = [row for row in everything if row.sync and row.killed is not None]
    if not shared:
        return []
    if not killed:
        return ["No worker was killed: the work was over before."]
    repairs = sum(row.repairs for row in everything)
    again = sum(row.trained_again for row in everything)
    worst = min(shared, key=lambda row: row.test_accuracy.median if row.test_accuracy else 1.0)
    reached = f"{worst.test_accuracy.median:.1%}" if worst.test_accuracy else NOTHING
    text = (
        f"{_counted(killed, 'worker')} killed at work and replaced, and every run was finished: "
        f"{_counted(repairs, 'lock')} taken over from the dead, "
        f"{_counted(again, 'mini-batch', 'mini-batches')} pushed twice."
    )
    where = f"{worst.variant}, {_workers(worst.workers)}"
    return [f"{text} The lowest accuracy of all is {reached} ({where})."]


def _contention(rows: list[Row]) -> list[str]:
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
    workers = _workers(rows[0].workers)
    sentences = []
    if led:
        best_texts = [text for _, text in sorted(led, reverse=True)[:3]]
        sentences.append(f"With {workers}, lock-free gained most for {'; '.join(best_texts)}.")
    if beaten:
        worst_texts = [text for _, text in sorted(beaten)[:3]]
        sentences.append(
            f"With {workers}, lock-free lost to the fastest sync that may wait in {len(beaten)} of "
            f"{len(beaten) + len(led)} pairings outside the spread, most for "
            f"{'; '.join(worst_texts)}."
        )
    losing = [row for row in rows if row.lost_updates and not row.audit]
    if losing:
        worst = max(losing, key=lambda row: row.lost_share or 0.0)
        sentences.append(
            f"The price of racing: {worst.variant} lost up to {share_text(worst.lost_share)} of "
            f"its element updates ({worst.case}, {rate_text(worst.updates_per_second.median)} "
            "updates/s)."
        )
    return sentences


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _counted(count: int, one: str, many: str = "") -> str:
    """``1 lock was``, ``2 locks were``."""
    return f"1 {one} was" if count == 1 else f"{count:,} {many or one + 's'} were"
