"""What ``--delay`` means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asyncopt.run.delays import Delay, check_delay

EXPONENTIAL = "exponential:"
GRAMMAR = (
    f"seconds (0.002), {EXPONENTIAL}MEAN, either for each worker with commas (0,0.01), or a file "
    "that asyncopt.Delay.record wrote"
)


def parse_delay(text: str, workers: int, seed: int) -> Delay:
    """The delay that `text` stands for; see `GRAMMAR`.

    Args:
        text: what the user wrote.
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
    checked = check_delay(delay, workers)
    assert checked is not None
    return _FirstRanks(checked)


@dataclass(frozen=True)
class _FirstRanks(Delay):
    """A delay that was checked for the largest run, for runs with fewer workers as well."""

    delay: Delay

    def seconds(self, rank: int, turn: int) -> float:
        return self.delay.seconds(rank, turn)


def _part(text: str, seed: int) -> Delay | None:
    """One worker's delay; None where it is no number."""
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
        raise ValueError(f"expected {GRAMMAR}; got {text!r}")
    try:
        return Delay.trace(text)
    except OSError as failure:
        raise ValueError(f"cannot read {text!r} ({failure.strerror or failure})") from failure
