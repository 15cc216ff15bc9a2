"""What one ``asyncopt compare`` measures: the options, checked, and the variants they imply."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import asyncopt
from asyncopt.optim import Optimizer

MOST_WORKERS = 256
QUICK_WORKERS = (1, 2)
UNSHARED = "unshared"
MODES = ("process", "thread")


class Variant(NamedTuple):
    """One contender: a sync (None: every worker trains alone, nothing shared), audited or not."""

    label: str
    sync: str | None
    audit: bool


@dataclass(frozen=True)
class Plan:
    """Options of one comparison. `epochs` and `lr` None: each problem's own choice."""

    problems: tuple[str, ...]
    syncs: tuple[str, ...]
    workers: tuple[int, ...]
    repeats: int
    epochs: int | None
    rule: str
    lr: float | None
    seed: int
    mode: str
    audit: bool
    quick: bool

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The contenders in the order of the table; `unshared` (the machine's ceiling) is last."""
        shared = [Variant(sync, sync, False) for sync in self.syncs]
        if self.audit and "hogwild" in self.syncs:
            shared.insert(
                self.syncs.index("hogwild") + 1, Variant("hogwild+audit", "hogwild", True)
            )
        return (*shared, Variant(UNSHARED, None, False))

    def schedule(self) -> list[tuple[int, Variant]]:
        """(repeat, variant) in the order they run: A B C, then B C A, and so on.

        So slow spells of the machine and the place in the round fall on every contender alike.
        """
        variants = self.variants
        return [
            (repeat, variants[(place + repeat) % len(variants)])
            for repeat in range(self.repeats)
            for place in range(len(variants))
        ]

    def as_json(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)


def usable_cores() -> int:
    """Number of processors this process may run on."""
    return len(os.sched_getaffinity(0))


def default_workers(cores: int) -> tuple[int, ...]:
    """1, 2, 4 ... up to `cores` and one beyond, which shows what preemption does; at most 16."""
    counts = [1]
    while counts[-1] < cores and counts[-1] < 16:
        counts.append(counts[-1] * 2)
    if counts[-1] < 16:
        counts.append(counts[-1] * 2)
    return tuple(counts)


def parse_workers(text: str) -> tuple[int, ...]:
    """Worker counts from text like ``1,2,4``, sorted, without repeats.

    Raises ValueError: not whole numbers between 1 and 256.
    """
    wrong = f"expected whole numbers from 1 to {MOST_WORKERS} with commas, like 1,2,4; got {text!r}"
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ValueError(wrong) from None
    if counts[0] < 1 or counts[-1] > MOST_WORKERS:
        raise ValueError(wrong)
    return tuple(counts)


def pick(names: Sequence[str], known: Sequence[str], kind: str) -> tuple[str, ...]:
    """`names` (all of `known` where empty) in the order of `known`, compared without case.

    Raises ValueError: one of them is not known; the message lists those that are.
    """
    if not names:
        return tuple(known)
    by_folded = {name.casefold(): name for name in known}
    unknown = [name for name in names if name.casefold() not in by_folded]
    if unknown:
        raise ValueError(f"unknown {kind} {unknown[0]!r}; choose from {', '.join(known)}")
    wanted = {by_folded[name.casefold()] for name in names}
    return tuple(name for name in known if name in wanted)


def make_optimizer(
    rule: str, parameters: Any, options: dict[str, Any], variant: Variant
) -> Optimizer:
    """The asyncopt optimizer `rule` over `parameters` under `variant`, not shared yet."""
    optimizer: type[Optimizer] = getattr(asyncopt, rule)
    if variant.sync is None:
        return optimizer(parameters, **options)
    return optimizer(parameters, **options, sync=variant.sync, audit=variant.audit)
