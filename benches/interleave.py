"""The one timing method of all benches: contenders interleaved, medians, quartiles, ratios.

The machines that run these benches are shared and drift, so two times taken minutes apart say
little about each other. Here every round takes one sample of every contender (A B C, B C A, ...),
the ratio of two contenders is the median of their per-round ratios, and a ratio whose quartiles
lie on both sides of 1 is a tie.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benches.others import MATTER, Others

ROUNDS = 9
"""Samples per contender: fewer make quartiles meaningless."""

Sampler = Callable[[], float]
"""Takes one sample of a contender and returns seconds per unit of its work."""


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile of at least one value."""
    if len(values) == 1:
        return (values[0],) * 3
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, median, q3


@dataclass(frozen=True)
class Ratio:
    """How many times faster one contender is than another: quartiles of the per-round ratios."""

    q1: float
    median: float
    q3: float

    @property
    def tie(self) -> bool:
        """Whether the spread reaches across 1: neither contender is shown to be the faster."""
        return self.q1 <= 1.0 <= self.q3

    def __str__(self) -> str:
        sign = " tie" if self.tie else ""
        return f"{self.median:.2f}x [{self.q1:.2f}, {self.q3:.2f}]{sign}"


@dataclass(frozen=True)
class Comparison:
    """Interleaved samples of several contenders, in seconds per unit of work.

    `samples[name][i]` was taken in round `i`, next to the other contenders' sample `i`.
    """

    samples: Mapping[str, tuple[float, ...]]
    others: float
    """Share of the cores' time that other programs took meanwhile."""

    def median(self, name: str) -> float:
        """Median seconds per unit of `name`."""
        return quartiles(self.samples[name])[1]

    def ratio(self, of: str, over: str) -> Ratio:
        """How many times faster `of` is than `over` (above 1: `of` is faster)."""
        pairs = zip(self.samples[of], self.samples[over], strict=True)
        return Ratio(*quartiles([theirs / ours for ours, theirs in pairs]))

    def row(self, name: str, **more: Any) -> dict[str, Any]:
        """The report row of `name`: its quartiles and samples in seconds, plus `more`."""
        q1, median, q3 = quartiles(self.samples[name])
        return {"median": median, "q1": q1, "q3": q3, "samples": list(self.samples[name]), **more}


def rotations(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The order of the contenders in each round; each round starts one further on.

    Without the rotation a contender would always find the caches of the same predecessor.
    """
    for start in range(rounds):
        shift = start % len(names)
        yield [*names[shift:], *names[:shift]]


SETTLE = 0.01
"""Seconds of rest before a sample: after a parallel region the threads of torch's OpenMP pool spin
for about 7 ms (GOMP_SPINCOUNT), on cores that the next contender is to be measured on."""


class Timed:
    """Turns a plain callable into a sampler: seconds per call over calls that last `least` s.

    The callable is run on construction, which warms it up and finds the calls per sample.
    `before` is run ahead of every call, off the clock. `calls_made` counts every call since, so
    that the answer can be checked afterwards.
    """

    def __init__(
        self,
        call: Callable[[], object],
        least: float = 5e-3,
        before: Callable[[], object] | None = None,
    ) -> None:
        self.call = call
        self.before = before
        self.calls_made = 0
        self._run(1)  # first calls allocate state, start thread pools, fault pages in
        self._calls = 1
        seconds = self._run(1)
        while seconds < least:
            enough = math.ceil(1.1 * self._calls * least / max(seconds, 1e-9))
            self._calls = max(2 * self._calls, min(8 * self._calls, enough))
            seconds = self._run(self._calls)

    def _run(self, calls: int) -> float:
        self.calls_made += calls
        call, before, clock = self.call, self.before, time.perf_counter
        if before is None:
            begin = clock()
            for _ in range(calls):
                call()
            return clock() - begin
        total = 0.0
        for _ in range(calls):
            before()
            begin = clock()
            call()
            total += clock() - begin
        return total

    def __call__(self) -> float:
        time.sleep(SETTLE)
        if self._calls > 1:  # the caches and branch predictors are the previous contender's
            self._run(1)
        return self._run(self._calls) / self._calls


def interleave(samplers: Mapping[str, Sampler], rounds: int = ROUNDS) -> Comparison:
    """Take `rounds` samples of every contender, one of each per round.

    The garbage collector is off while samples are taken: one contender would pay for all.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    others = Others()
    try:
        for order in rotations(list(samplers), rounds):
            for name in order:
                samples[name].append(samplers[name]())
    finally:
        if collecting:
            gc.enable()
    return Comparison({name: tuple(taken) for name, taken in samples.items()}, others.share())


class _Replay:
    """A clock that stands still except where a sample is played back."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


replay = _Replay()
"""Timer to give to pytest-benchmark, `pytest.mark.benchmark(timer=replay)`.

pytest-benchmark measures one contender at a time. So that its table, its JSON and its `compare`
still show the interleaved samples, `record` plays those of one contender back on this clock.
"""


@dataclass(frozen=True)
class Pair:
    """A ratio to report: how many times faster `of` is than `over`, and the `goal` to reach."""

    of: str
    over: str
    goal: float | None = None


def record(
    benchmark: Any,
    comparison: Comparison,
    pairs: Sequence[Pair],
    *,
    suite: str,
    case: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Put a comparison into pytest-benchmark's record (its JSON keeps all of it).

    The samples of the first contender become the benchmark's own statistics. Under `extra_info`
    go `suite` and `case` (what was measured), `rows` (one per contender: quartiles and samples in
    seconds, and whatever `rows` adds), `ratios` (one per pair) and `others`.

    Returns lines of text for progress output.
    """
    ratios = [(pair, comparison.ratio(pair.of, pair.over)) for pair in pairs]
    more = rows or {}
    benchmark.extra_info.update(
        suite=suite,
        case=dict(case),
        rows={name: comparison.row(name, **more.get(name, {})) for name in comparison.samples},
        others=comparison.others,
        ratios=[{**asdict(pair), **asdict(ratio), "tie": ratio.tie} for pair, ratio in ratios],
    )
    first = next(iter(comparison.samples.values()))
    samples = iter(first)

    def play() -> None:
        replay.now = next(samples)

    def rewind() -> None:
        replay.now = 0.0  # adding to a running clock would round the samples

    benchmark.pedantic(play, setup=rewind, rounds=len(first))
    lines = [
        f"{pair.of} / {pair.over}: {ratio}" + (f" (goal {pair.goal:.3g}x)" if pair.goal else "")
        for pair, ratio in ratios
    ]
    if comparison.others > MATTER:
        lines.append(f"doubtful: other programs took {comparison.others:.0%} of the cores' time")
    return lines
