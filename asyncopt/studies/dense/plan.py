"""What one ``asyncopt compare`` measures: the options, checked, and the variants they imply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import asyncopt
from asyncopt._limits import usable_cpus
from asyncopt.optim import Optimizer
from asyncopt.studies.delays import parse_delay
from asyncopt.studies.training.conditions import Conditions

T = TypeVar("T")

MOST_WORKERS = 256
QUICK_WORKERS = (1, 2)
UNSHARED = "unshared"
MODES = ("process", "thread")
MOST_KILLS = 10.0  # per second: who dies more often hardly gets to work


class Variant(NamedTuple):
    """One contender: a sync (None: every worker trains alone, nothing shared), audited or not."""

    label: str
    sync: str | None
    audit: bool


@dataclass(frozen=True)
class Plan:
    """Options of one comparison. `epochs` and `lr` None: each problem's own choice.

    `kill_rate` (per second of a worker's working time), `delay` (as in ``--delay``) and
    `max_staleness` None: nobody is killed, delayed or kept waiting.
    """

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
    kill_rate: float | None = None
    delay: str | None = None
    max_staleness: int | None = None

    @property
    def conditions(self) -> Conditions:
        """What the training problems are put through.

        Raises ValueError: the delay is none, or its file has gone.
        """
        return Conditions(
            mode=self.mode,
            delay=(
                None
                if self.delay is None
                else parse_delay(self.delay, max(self.workers), self.seed)
            ),
            max_staleness=self.max_staleness,
            kill_rate=self.kill_rate or 0.0,
            seed=self.seed,
        )

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
        """(repeat, variant) in the order they run."""
        return in_turns(self.variants, self.repeats)

    def as_json(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)


def in_turns(contenders: Sequence[T], repeats: int) -> list[tuple[int, T]]:
    """(repeat, contender) in an order that is fair: A B C, then B C A, and so on.

    So slow spells of the machine and the place in the round fall on every contender alike.
    """
    return [
        (repeat, contenders[(place + repeat) % len(contenders)])
        for repeat in range(repeats)
        for place in range(len(contenders))
    ]


def usable_cores() -> int:
    """Number of threads of this process that can run at once, CPU quotas included."""
    return usable_cpus()


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


def pick_problems(
    names: Sequence[str], known: Mapping[str, bool], disturbed: bool
) -> tuple[str, ...]:
    """`names` as `pick` has them; without names, those that can be measured.

    Args:
        names: what the user asked for.
        known: problems, and whether their workers take turns.
        disturbed: whether workers are to be killed, delayed or bound, which those in turns can be.

    Raises:
        ValueError: one of `names` is not known, or cannot be disturbed.
    """
    picked = pick(names, tuple(known), "problem")
    unfit = [name for name in picked if disturbed and not known[name]]
    if names and unfit:
        raise ValueError(
            f"{unfit[0]} pushes ready-made gradients without turns and counts every update to the "
            "last element: it cannot be measured with --kill-rate, --delay or --max-staleness; "
            "leave it out"
        )
    return tuple(name for name in picked if name not in unfit)


def check_kills(rate: float, mode: str) -> None:
    """Raise ValueError for kills that no run in `mode` can have; `rate` is per second."""
    if not 0 < rate <= MOST_KILLS:
        raise ValueError(f"expected kills per second above 0, up to {MOST_KILLS:g}; got {rate:g}")
    if mode != "process":
        raise ValueError("expected --mode process, got thread; no thread can be killed")


def make_optimizer(
    rule: str, parameters: Any, options: dict[str, Any], variant: Variant
) -> Optimizer:
    """The asyncopt optimizer `rule` over `parameters` under `variant`, not shared yet."""
    optimizer: type[Optimizer] = getattr(asyncopt, rule)
    if variant.sync is None:
        return optimizer(parameters, **options)
    return optimizer(parameters, **options, sync=variant.sync, audit=variant.audit)
