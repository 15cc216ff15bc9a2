"""Checks of the options that several studies have, and the syntax of delays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from asyncopt._limits import usable_cpus
from asyncopt.run.delays import Delay, check_delay
from asyncopt.run.random_states import Stream
from asyncopt.studies.errors import OptionError

T = TypeVar("T")

MODES = ("process", "thread")
MOST_WORKERS = 256
MOST_REPEATS = 1000
MOST_EPOCHS = 10_000
REPEATS = 3
QUICK_WORKERS = (1, 2)
EXPONENTIAL = "exponential:"
DELAYS = (
    f"seconds (0.002), {EXPONENTIAL}MEAN, either for each worker with commas (0,0.01), or a file "
    "that asyncopt.Delay.record wrote"
)


def checked(option: str, parse: Callable[[], T]) -> T:
    """The result of `parse`; its ValueError becomes an `OptionError` of `option`."""
    try:
        return parse()
    except ValueError as wrong:
        raise OptionError(option, str(wrong)) from None


def several(values: object) -> tuple[Any, ...]:
    """The values of an option that takes several; a single text or number is one value.

    Raises ValueError: `values` is neither a value nor several, or one is True or False.
    """
    if values is None:
        return ()
    if isinstance(values, bytes) or not isinstance(values, str | int | float | Iterable):
        raise ValueError(f"expected one value or a sequence of them, got {values!r}")
    found = (values,) if isinstance(values, str | int | float) else tuple(values)
    if any(isinstance(value, bool) for value in found):
        raise ValueError(f"expected text or numbers, got {found!r}")
    return found


def picked(option: str, names: str | Iterable[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """`names` as `pick` has them, of the option ``syncs``, ``problems`` ...

    Raises OptionError: one of them is not known.
    """
    return checked(option, lambda: pick(several(names), known, option.removesuffix("s")))


def pick(names: Sequence[Any], known: Sequence[str], kind: str) -> tuple[str, ...]:
    """`names` (all of `known` where empty) in the order of `known`, compared without case.

    Raises ValueError: one of them is not known; the message lists those that are.
    """
    if not names:
        return tuple(known)
    by_folded = {name.casefold(): name for name in known}
    unknown = [
        name for name in names if not isinstance(name, str) or name.casefold() not in by_folded
    ]
    if unknown:
        raise ValueError(f"unknown {kind} {unknown[0]!r}; choose from {', '.join(known)}")
    wanted = {by_folded[name.casefold()] for name in names}
    return tuple(name for name in known if name in wanted)


def whole(option: str, value: int, least: int, most: int | None = None) -> int:
    """`value`, a whole number from `least` to `most`.

    Raises OptionError: it is none.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        bounds = f">= {least}" if most is None else f"from {least} to {most}"
        raise OptionError(option, f"expected a whole number {bounds}, got {value!r}")
    return value


def whole_or_none(option: str, value: int | None, least: int, most: int | None) -> int | None:
    """`whole`, which also accepts None."""
    return None if value is None else whole(option, value, least, most)


def is_number(value: object) -> bool:
    """True for a real number, which True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def flag(option: str, value: bool) -> bool:
    """`value`, True or False.

    Raises OptionError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise OptionError(option, f"expected True or False, got {value!r}")
    return bool(value)


def learning_rate(value: float | None) -> float | None:
    """`value`, a number >= 0, or None.

    Raises OptionError: it is neither.
    """
    if value is not None and not (is_number(value) and 0 <= value < float("inf")):
        raise OptionError("lr", f"expected a number >= 0, got {value!r}")
    return value


def worker_counts(option: str, counts: str | int | Iterable[int]) -> tuple[int, ...]:
    """Worker counts, sorted, without repeats; of text like ``1,2,4`` or of numbers.

    Raises OptionError: not whole numbers between 1 and 256.
    """
    try:
        parts = counts.split(",") if isinstance(counts, str) else several(counts)
        found = sorted({int(part) if isinstance(part, str) else index(part) for part in parts})
        if found[0] < 1 or found[-1] > MOST_WORKERS:
            raise ValueError
    except (IndexError, TypeError, ValueError):
        raise OptionError(
            option,
            f"expected whole numbers from 1 to {MOST_WORKERS} with commas, like 1,2,4; "
            f"got {counts!r}",
        ) from None
    return tuple(found)


def default_workers(cores: int) -> tuple[int, ...]:
    """1, 2, 4 ... up to `cores` and one beyond, which shows preemption; at most 16."""
    counts = [1]
    while counts[-1] < cores and counts[-1] < 16:
        counts.append(counts[-1] * 2)
    if counts[-1] < 16:
        counts.append(counts[-1] * 2)
    return tuple(counts)


def usable_cores() -> int:
    """Number of threads of this process that can run at once, CPU quotas included."""
    return usable_cpus()


def in_turns(contenders: Sequence[T], repeats: int) -> list[tuple[int, T]]:
    """(repeat, contender) in a fair order: A B C, then B C A, and so on.

    Slow spells of the machine and the place in the round affect every contender alike.
    """
    return [
        (repeat, contenders[(place + repeat) % len(contenders)])
        for repeat in range(repeats)
        for place in range(len(contenders))
    ]


def seed_of(seed: int, part: int) -> int:
    """The seed of a repeat or a worker, below 2**31; unlike that of another part or seed."""
    return Stream(seed, (part,)).number >> 33


def parse_delay(text: str, workers: int, seed: int) -> Delay:
    """The delay that `text` stands for; see `DELAYS`.

    Args:
        text: as the user wrote it.
        workers: of the largest run. Runs with fewer have the delays of the first ranks.
        seed: of exponential delays.

    Raises:
        ValueError: it stands for none, or not for so many workers.
    """
    parts = [_part(part, seed) for part in text.split(",")]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        delay: Delay | list[Delay] = _recorded(text)
    elif len(known) == 1:
        return known[0]
    else:
        delay = known
    per_rank = check_delay(delay, workers)
    assert per_rank is not None
    return _FirstRanks(per_rank)


@dataclass(frozen=True)
class _FirstRanks(Delay):
    """A delay that was checked for the largest run, for runs with fewer workers as well."""

    delay: Delay

    def seconds(self, rank: int, turn: int) -> float:
        return self.delay.seconds(rank, turn)


def _part(text: str, seed: int) -> Delay | None:
    """Delay of one worker; None where it is no number."""
    text = text.strip()
    if text.startswith(EXPONENTIAL):
        try:
            mean = float(text.removeprefix(EXPONENTIAL))
        except ValueError:
            raise ValueError(f"expected {EXPONENTIAL}SECONDS, got {text!r}") from None
        return Delay.exponential(mean, seed)
    try:
        seconds = float(text)
    except ValueError:
        return None
    return Delay.constant(seconds)


def _recorded(text: str) -> Delay:
    if not text or not Path(text).exists():
        raise ValueError(f"expected {DELAYS}; got {text!r}")
    try:
        return Delay.trace(text)
    except OSError as failure:
        raise ValueError(f"cannot read {text!r} ({failure.strerror or failure})") from failure
