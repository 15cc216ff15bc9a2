"""Injected delays: sleeps before a worker's push, to study the effects of staleness."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt._checks import whole

__all__ = ["Delay", "check_delay"]


class Delay:
    """Seconds that a worker sleeps between its pull and its push, once per turn.

    The sleep is at the start of the push, so the gradient is as stale as if computing it had taken
    that much longer. Rank and turn determine the sleep, in every run and after restarts. Subclasses
    that override :meth:`seconds` work like the built-in delays, if they can be pickled.
    """

    def seconds(self, rank: int, turn: int) -> float:
        """The sleep of worker ``rank`` in its ``turn``-th turn, counted from 0, in seconds."""
        raise NotImplementedError

    def took(self, rank: int, turn: int, seconds: float) -> None:
        """Called before the sleep with the seconds from the worker's pull to its push."""

    @staticmethod
    def constant(seconds: float) -> Delay:
        """Always the same.

        Args:
            seconds: >= 0.
        """
        return _Constant(_seconds("seconds", seconds))

    @staticmethod
    def exponential(mean: float, seed: int = 0) -> Delay:
        """Independent draws from an exponential distribution.

        Args:
            mean: of the distribution, seconds >= 0.
            seed: an integer >= 0; seed, rank and turn decide each draw.
        """
        return _Exponential(_seconds("mean", mean), whole("seed", seed, 0))

    @staticmethod
    def trace(source: Sequence[Any] | npt.NDArray[Any] | str | os.PathLike[str]) -> Delay:
        """Replay given delays turn by turn; repeat from the start at the end.

        Args:
            source: seconds turn by turn, the same for every worker; or a list of such lists, one
                per rank; or the file that :meth:`record` wrote.

        Raises:
            ValueError: the source holds anything else, or nothing.
            OSError: the file cannot be read.
        """
        if isinstance(source, str | os.PathLike):
            return _Trace(tuple(_read_trace(Path(source))))
        source = _plain(source)
        if not isinstance(source, list | tuple) or not source:
            raise ValueError(f"source: expected a list of seconds or a file, got {source!r}")
        if not any(isinstance(each, list | tuple) for each in source):
            return _Trace((_row("source", source),))
        return _Trace(tuple(_row(f"source[{rank}]", row) for rank, row in enumerate(source)))

    @staticmethod
    def record(path: str | os.PathLike[str]) -> Delay:
        """Write the seconds from each pull to its push to a file for :meth:`trace`; do not sleep.

        Args:
            path: path of the file, which is created or emptied now. Each line is ``[rank, turn,
                seconds]`` in JSON.

        Raises:
            OSError: the file cannot be written.
        """
        recorder = _Record(os.path.abspath(path))
        Path(recorder.path).write_text("")
        return recorder

    def check(self, workers: int) -> None:
        """Raise ValueError if the delay does not fit a run with ``workers`` workers."""


@dataclass(frozen=True)
class _Constant(Delay):
    value: float

    def seconds(self, rank: int, turn: int) -> float:
        return self.value


@dataclass(frozen=True)
class _Exponential(Delay):
    mean: float
    seed: int

    def seconds(self, rank: int, turn: int) -> float:
        return float(np.random.default_rng((self.seed, rank, turn)).exponential(self.mean))


@dataclass(frozen=True)
class _Trace(Delay):
    rows: tuple[tuple[float, ...], ...]  # one for all ranks, or one per rank

    def seconds(self, rank: int, turn: int) -> float:
        row = self.rows[rank if len(self.rows) > 1 else 0]
        return row[turn % len(row)]

    def check(self, workers: int) -> None:
        if len(self.rows) not in (1, workers):
            raise ValueError(
                f"delay: expected a trace of one worker or of all {workers}, "
                f"got one of {len(self.rows)}"
            )


@dataclass(frozen=True)
class _PerRank(Delay):
    parts: tuple[Delay, ...]

    def seconds(self, rank: int, turn: int) -> float:
        return self.parts[rank].seconds(rank, turn)

    def took(self, rank: int, turn: int, seconds: float) -> None:
        self.parts[rank].took(rank, turn, seconds)

    def check(self, workers: int) -> None:
        if len(self.parts) != workers:
            raise ValueError(
                f"delay: expected {workers} entries, one per worker, got {len(self.parts)}"
            )
        for part in self.parts:
            part.check(workers)


@dataclass(frozen=True)
class _Record(Delay):
    path: str

    def seconds(self, rank: int, turn: int) -> float:
        return 0.0

    def took(self, rank: int, turn: int, seconds: float) -> None:
        """Append a line in one short write, so that lines of workers do not interleave."""
        line = f"{json.dumps([rank, turn, seconds])}\n".encode()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(file, line)
        finally:
            os.close(file)


def check_delay(delay: Any, workers: int) -> Delay | None:
    """Convert the argument of ``launch(delay=...)``.

    Args:
        delay: None, seconds, a ``Delay``, or a list of seconds or delays, one per rank.
        workers: of the run.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    if delay is None:
        return None
    delay = _plain(delay)
    if isinstance(delay, list | tuple):
        checked: Delay = _PerRank(
            tuple(_one_delay(f"delay[{rank}]", part) for rank, part in enumerate(delay))
        )
    else:
        checked = _one_delay("delay", delay)
    checked.check(workers)
    return checked


def _one_delay(name: str, delay: Any) -> Delay:
    if isinstance(delay, Delay):
        return delay
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise TypeError(
            f"{name}: expected seconds >= 0, an asyncopt.Delay or a list with one per worker, "
            f"got {delay!r}"
        )
    return _Constant(_seconds(name, delay))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _seconds(name: str, value: Any) -> float:
    number = isinstance(value, int | float | np.integer | np.floating)
    if isinstance(value, bool) or not number or not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected seconds >= 0, got {value!r}")
    return float(value)


def _row(name: str, row: Any) -> tuple[float, ...]:
    if not isinstance(row, list | tuple) or not row:
        raise ValueError(f"{name}: expected a list of seconds, got {row!r}")
    return tuple(_seconds(f"{name}[{turn}]", value) for turn, value in enumerate(row))


def _read_trace(path: Path) -> list[tuple[float, ...]]:
    """The rows of a recorded file, in the order of ranks and turns."""
    events = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rank, turn, value = json.loads(line)
            events.append((int(rank), int(turn), _seconds("seconds", value)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"source: expected [rank, turn, seconds] in line {number} of {path}, got {line!r}"
            ) from error
    rows = {
        rank: tuple(value for _, _, value in row)
        for rank, row in itertools.groupby(sorted(events), key=lambda event: event[0])
    }
    if not rows or list(rows) != list(range(len(rows))):
        raise ValueError(f"source: expected turns of ranks from 0 on in {path}, got {list(rows)}")
    return list(rows.values())
