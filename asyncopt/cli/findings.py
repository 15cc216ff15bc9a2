"""Sentences that say what a comparison found, and where lock-free loses, from the numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.cli.plan import UNSHARED
from asyncopt.cli.results import Row, Spread
from asyncopt.cli.table import rate_text, share_text
from asyncopt.optim.kernels import syncs


def findings(rows: Sequence[Row], usable_cores: int) -> list[str]:
    """What one problem's rows say, for the largest worker count that the machine has cores for."""
    counts = sorted({row.workers for row in rows})
    fitting = [count for count in counts if count <= usable_cores] or counts[:1]
    workers = fitting[-1]
    chosen = [row for row in rows if row.workers == workers]
    sentences = _contention(chosen) if rows[0].case else _training(chosen)
    if counts[-1] > usable_cores:
        sentences.append(
            f"More workers than the {usable_cores} usable cores show what preemption inside an "
            "update does, not scaling."
        )
    return sentences


def takes_locks(row: Row) -> bool:
    """Whether a worker can wait for another under this row's sync."""
    return row.sync is not None and syncs()[row.sync]["may_block"]


def _training(rows: list[Row]) -> list[str]:
    contenders = [row for row in rows if row.sync and not row.audit]
    if not contenders:
        return []
    fastest = min(contenders, key=lambda row: row.seconds.median)
    workers = _workers(fastest.workers)
    sentences = [f"With {workers}, {fastest.variant} was fastest ({_pace(fastest)})."]
    sentences += _ceiling(rows, fastest)
    sentences += _losses(contenders)
    sentences += _accuracy(contenders)
    sentences += _audit(rows)
    return sentences


def _pace(row: Row) -> str:
    speedup = f", {row.speedup:.2f}x one worker" if row.speedup and row.workers > 1 else ""
    return f"{row.seconds.median:.2f} s{speedup}"


def _ceiling(rows: list[Row], fastest: Row) -> list[str]:
    alone = next((row for row in rows if row.variant == UNSHARED), None)
    if alone is None or fastest.workers == 1:
        return []
    share = alone.seconds.median / fastest.seconds.median
    text = f"Workers that share nothing took {alone.seconds.median:.2f} s for the same work: "
    return [text + f"{fastest.variant} reached {share:.0%} of that ceiling."]


def _losses(contenders: list[Row]) -> list[str]:
    """Where lock-free loses in speed to a sync with locks, by more than the spread."""
    locked = [row for row in contenders if takes_locks(row)]
    free = [row for row in contenders if not takes_locks(row)]
    if not locked or not free:
        return []
    best = min(locked, key=lambda row: row.seconds.median)
    beaten = [row for row in free if _above(row.seconds, best.seconds)]
    if beaten:
        names = " and ".join(
            f"{row.variant} ({row.seconds.median / best.seconds.median - 1:.0%} slower)"
            for row in beaten
        )
        return [f"Lock-free lost here: {names} fell behind {best.variant}, which takes locks."]
    ahead = [row for row in free if _above(best.seconds, row.seconds)]
    if ahead:
        names = " and ".join(row.variant for row in ahead)
        return [f"{names} beat the fastest sync with locks ({best.variant}) beyond the spread."]
    text = f"A tie between locks ({best.variant} was the fastest with them) and lock-free: "
    return [text + "the differences are within the spread of the repeats."]


def _above(row: Spread, other: Spread) -> bool:
    """`row` is more than `other`, beyond the spread of both and by enough to matter."""
    # Fewer than three repeats have no spread to speak of.
    enough = 1.02 if min(len(row.values), len(other.values)) >= 3 else 1.2
    return row.q1 > other.q3 and row.median > enough * other.median


def _accuracy(contenders: list[Row]) -> list[str]:
    scored = [(row, row.test_accuracy) for row in contenders if row.test_accuracy]
    if not scored:
        return []
    best = max(accuracy.median for _, accuracy in scored)
    worst_row, worst = min(scored, key=lambda pair: pair[1].median)
    gap = best - worst.median
    if gap <= max(0.01, *(accuracy.q3 - accuracy.q1 for _, accuracy in scored)):
        return [f"All syncs ended within {gap * 100:.1f} points of accuracy, inside the spread."]
    text = f"{worst_row.variant} ended {gap * 100:.1f} points of accuracy below the best "
    return [text + f"({worst.median:.1%} against {best:.1%})."]


def _audit(rows: list[Row]) -> list[str]:
    audited = next((row for row in rows if row.audit), None)
    plain = next((row for row in rows if row.sync == "hogwild" and not row.audit), None)
    if audited is None or plain is None or audited.workers == 1:
        return []
    cost = audited.seconds.median / plain.seconds.median - 1
    lost = audited.lost_updates or 0
    share = share_text(audited.lost_share)
    text = (
        f"The audit counted {lost:,} lost element updates ({share} of those pushed) under hogwild"
    )
    return [text + f"; counting them changed the time by {cost:+.0%}."]


def _contention(rows: list[Row]) -> list[str]:
    sentences = []
    beaten, led = [], []
    for case in dict.fromkeys(row.case for row in rows):
        contenders = [r for r in rows if r.case == case and r.sync and not r.audit]
        locked = [row for row in contenders if takes_locks(row)]
        free = [row for row in contenders if not takes_locks(row)]
        if not locked or not free:
            continue
        best = max(locked, key=lambda row: row.updates_per_second.median)
        for row in free:
            ratio = row.updates_per_second.median / best.updates_per_second.median
            text = f"{row.variant} on {case} ({ratio:.2f}x {best.variant})"
            if _above(best.updates_per_second, row.updates_per_second):
                beaten.append((ratio, text))
            elif _above(row.updates_per_second, best.updates_per_second):
                led.append((ratio, text))
    workers = _workers(rows[0].workers)
    if led:
        best_texts = [text for _, text in sorted(led, reverse=True)[:3]]
        sentences.append(f"With {workers}, lock-free gains most for {', '.join(best_texts)}.")
    if beaten:
        worst_texts = [text for _, text in sorted(beaten)[:4]]
        sentences.append(
            f"Lock-free loses to the fastest sync with locks in {len(beaten)} of "
            f"{len(beaten) + len(led)} decided pairings, most for {', '.join(worst_texts)}."
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
