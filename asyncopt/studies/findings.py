"""Findings that several studies share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asyncopt.studies.rows import Spread


def preemption(counts: Sequence[int], usable_cores: int) -> list[str]:
    """The meaning of worker counts beyond the cores."""
    if max(counts) <= usable_cores:
        return []
    text = f"More workers than the {usable_cores} usable cores show what preemption inside an "
    return [text + "update does, not scaling."]


def beside_blocking(
    free: Mapping[str, Spread], blocking: Mapping[str, Spread], where: str = ""
) -> list[str]:
    """Lock-free syncs beside the fastest blocking one, by more than the spread.

    Args:
        free: seconds of the lock-free syncs, by name.
        blocking: seconds of the syncs under which workers may wait for each other.
        where: the number of workers, in words.
    """
    if not free or not blocking:
        return []
    best = min(blocking, key=lambda name: blocking[name].median)
    seconds = blocking[best]
    slower = [name for name, own in free.items() if own.is_above(seconds)]
    faster = [name for name, own in free.items() if seconds.is_above(own)]
    level = [name for name in free if name not in slower and name not in faster]
    relations = (
        ("that were slower than", slower, True),
        ("that were faster than", faster, True),
        ("within the spread of", level, False),
    )
    return [
        f"Lock-free syncs {relation} {best}, the fastest blocking sync{where}: "
        + " and ".join(
            f"{name} ({free[name].median / seconds.median:.2f}x the time)" if ratio else name
            for name in names
        )
        + "."
        for relation, names, ratio in relations
        if names
    ]
