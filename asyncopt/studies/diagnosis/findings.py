"""Findings of the doctor: which mode is worthwhile, and why."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.modes import OVERLAPPED, UNHIDDEN
from asyncopt.studies.diagnosis.plan import Training

PAYS = 1.1  # times one worker: less is within what the model leaves out
ALIKE = 0.95  # of the best rate: then the mode with the least staleness is the better one
HEAVY = 0.5  # of the computing: a push that takes more wants larger batches

REMEDIES = {
    "cores": "there are no cores for more of them",
    "memory": "larger batches push less often",
    "lock": "a lock-free sync does not wait",
    "link": "larger batches, or local steps, transfer less often",
    "device": "more of them help only where one leaves the device idle",
}


def milliseconds(seconds: float) -> str:
    """``12.3 ms``."""
    return f"{seconds * 1e3:.3g} ms"


def best_of(found: Sequence[Forecast]) -> Forecast:
    """The mode with the least staleness of those within 5% of the fastest."""
    usable = [each for each in found if each.how]
    fastest = max(each.rate for each in usable)
    return min(
        (each for each in usable if each.rate >= ALIKE * fastest), key=lambda each: each.staleness
    )


def findings(training: Training, found: Sequence[Forecast]) -> list[str]:
    """The phases of the first mode, and remedies."""
    first = found[0]
    return [*_spent(first), *_hidden(found), *_heavy(training, first)]


def recommendation(training: Training, found: Sequence[Forecast]) -> str:
    """The worthwhile mode."""
    best = best_of(found)
    gained = f"{best.rate:.3g} batches/s, {best.speedup:.2f}x one worker by itself"
    if training.workers > 1 and best.speedup < PAYS:
        text = f"One worker: no mode pays with {training.workers}; the best, {best.mode}, reaches"
        return f"{text} {gained}."
    merged = "" if best.batches == 1 else f"; {best.batches} batches make one update"
    return f"{best.mode}, {best.how}: {gained}{merged}."


def _spent(first: Forecast) -> list[str]:
    parts = ", ".join(f"{name} {milliseconds(taken)}" for name, taken in first.phases.items())
    text = f"{first.mode.capitalize()}, a batch takes {milliseconds(first.latency)}: {parts}"
    busy = f"it keeps the {first.busiest} busy for {milliseconds(first.places[first.busiest])}"
    if first.waits_for is None:
        return [f"{text}; {busy}, which is enough for {first.knee:.1f} workers."]
    remedy = REMEDIES[first.busiest]
    return [f"{text}; {busy}: beyond {first.knee:.1f} workers they wait for it; {remedy}."]


def _hidden(found: Sequence[Forecast]) -> list[str]:
    """The part of transfers and push that computing hides."""
    by_mode = {each.mode: each for each in found}
    unhidden = by_mode.get(UNHIDDEN)
    if unhidden is None:
        return []
    overlapped = by_mode[OVERLAPPED]
    moved, shown = (each.latency - each.phases["compute"] for each in (unhidden, overlapped))
    text = f"A worker's computing can hide {milliseconds(moved - shown)} of {milliseconds(moved)} "
    text += "for transfers and push"
    if overlapped.waits_for is None:
        return [f"{text}."]
    return [f"{text}, but {overlapped.workers} workers wait for the {overlapped.waits_for}."]


def _heavy(training: Training, first: Forecast) -> list[str]:
    push = first.phases.get("push", 0.0)
    if push <= HEAVY * training.compute:
        return []
    times = max(2, round(push / (HEAVY / 2 * training.compute)))
    text = (
        f"The push takes {milliseconds(push)} against {milliseconds(training.compute)} of computing"
    )
    return [f"{text}; with batches {times}x as large it would be a quarter of that."]
