"""Recommendations: the way to train that the measurements speak for, and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asyncopt.report.text import workers_text
from asyncopt.studies.rows import Spread

__all__ = ["Way", "recommend"]


@dataclass(frozen=True)
class Way:
    """A measured way to train.

    Attributes:
        name: of the sync.
        workers: that trained at once.
        seconds: for the same work as all others.
        is_worse: its score is worse than that of one worker by more than the noise.
    """

    name: str
    workers: int
    seconds: Spread
    is_worse: bool = False

    def __str__(self) -> str:
        return f"{self.name} with {workers_text(self.workers)}"


def recommend(ways: Sequence[Way], usable_cores: int) -> str:
    """One sentence: what to use on this machine, and why.

    Of those that are as fast as the fastest within the spread of the repeats, it is the one with
    the fewest workers and then the strongest guarantees. More workers than cores are left out, and
    ways whose score is worse.

    Args:
        ways: in the order of increasing guarantees.
        usable_cores: of this machine.

    Returns:
        The sentence; empty without ways.
    """
    fitting = [way for way in ways if way.workers <= usable_cores]
    alone = [way for way in fitting if way.workers == 1]
    several = [way for way in fitting if way.workers > 1]
    if not fitting:
        return ""
    if not several:
        return (
            "Only one worker was measured: measure two or more (--workers 1,2) before you choose."
        )
    sound = [way for way in fitting if not way.is_worse]
    if not sound:
        return (
            "No sync kept the score of one worker: use one worker, a smaller learning rate or a "
            "bound on staleness (--max-staleness)."
        )
    fastest = min(sound, key=lambda way: way.seconds.median)
    level = [way for way in sound if not way.seconds.is_above(fastest.seconds)]
    fewest = min(way.workers for way in level)
    chosen = [way for way in level if way.workers == fewest][-1]
    base = min(alone, key=lambda way: way.seconds.median, default=None)
    if fewest == 1 and base is not None:
        text = f"Use one worker{_beside(min(several, key=lambda w: w.seconds.median), base)}"
    else:
        text = f"Use {chosen}: {_gain(chosen, base)}{_others(chosen, level)}"
    ahead = [way for way in fitting if way.is_worse and fastest.seconds.is_above(way.seconds)]
    if ahead:
        text += f"; {ahead[0]} was faster but lost accuracy"
    if len(fastest.seconds.values) == 1:
        text += "; one repeat has no spread, so confirm it with --repeats 3"
    return f"{text}."


def _beside(way: Way, base: Way) -> str:
    text = (
        f" ({base.name} took {base.seconds} s): {way} was "
        f"{base.seconds.median / way.seconds.median:.2f}x as fast"
    )
    return text if way.seconds.is_above(base.seconds) else f"{text}, no gain beyond the spread"


def _gain(chosen: Way, base: Way | None) -> str:
    if base is None:
        return "the fastest that was measured"
    gain = base.seconds.median / chosen.seconds.median
    text = f"{gain:.2f}x one worker"
    if gain > chosen.workers:
        text += (
            f", more than {chosen.workers} workers can gain: one worker met a slow moment; measure "
            "again with more --repeats"
        )
    return text


def _others(chosen: Way, level: Sequence[Way]) -> str:
    names = [w.name for w in level if w.workers == chosen.workers and w is not chosen]
    if not names:
        return ""
    *most, last = names
    listed = f"{', '.join(most)} and {last} were" if most else f"{last} was"
    return f"; {listed} no faster beyond the spread"
