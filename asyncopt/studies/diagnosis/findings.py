"""Sentences that say which mode will pay, and why."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.modes import APART, OVERLAPPED
from asyncopt.studies.diagnosis.task import Task

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
    """Three digits."""
    return f"{seconds * 1e3:.3g} ms"


def best_of(found: Sequence[Forecast]) -> Forecast:
    """The fastest, or of those that are hardly slower the one with the least staleness."""
    usable = [each for each in found if each.how]
    fastest = max(each.rate for each in usable)
    return min(
        (each for each in usable if each.rate >= ALIKE * fastest), key=lambda each: each.staleness
    )


def findings(task: Task, found: Sequence[Forecast]) -> list[str]:
    """What pays, what the first mode spends its time on, and what would help."""
    best, first = best_of(found), found[0]
    return [*_verdict(task, best), *_spent(first), *_hidden(found), *_heavy(task, first)]


def _verdict(task: Task, best: Forecast) -> list[str]:
    gained = f"{best.rate:.3g} batches/s, {best.speedup:.2f}x one worker by itself"
    if task.workers > 1 and best.speedup < PAYS:
        return [
            f"No mode pays with {task.workers} workers; the best, {best.mode}, comes to {gained}."
        ]
    merged = "" if best.batches == 1 else f"; {best.batches} batches make one update"
    return [f"What will pay: {best.mode}, {best.how}: {gained}{merged}."]


def _spent(first: Forecast) -> list[str]:
    parts = ", ".join(f"{name} {milliseconds(taken)}" for name, taken in first.phases.items())
    text = f"{first.mode.capitalize()}, a batch takes {milliseconds(first.latency)}: {parts}"
    busy = f"it keeps the {first.busiest} busy for {milliseconds(first.places[first.busiest])}"
    if first.waits_for is None:
        return [f"{text}; {busy}, which is enough for {first.knee:.1f} workers."]
    remedy = REMEDIES[first.busiest]
    return [f"{text}; {busy}: beyond {first.knee:.1f} workers they wait for it; {remedy}."]


def _hidden(found: Sequence[Forecast]) -> list[str]:
    """How much of the way to the host and back computing covers."""
    by_mode = {each.mode: each for each in found}
    apart = by_mode.get(APART)
    if apart is None:
        return []
    overlapped = by_mode[OVERLAPPED]
    moved, shown = (each.latency - each.phases["compute"] for each in (apart, overlapped))
    text = f"Of {milliseconds(moved)} for transfers and push, {milliseconds(moved - shown)} can be "
    text += "hidden behind a worker's computing"
    if overlapped.waits_for is None:
        return [f"{text}."]
    return [f"{text}, but {overlapped.workers} workers wait for the {overlapped.waits_for}."]


def _heavy(task: Task, first: Forecast) -> list[str]:
    push = first.phases.get("push", 0.0)
    if push <= HEAVY * task.compute:
        return []
    times = max(2, round(push / (HEAVY / 2 * task.compute)))
    text = f"The push takes {milliseconds(push)} against {milliseconds(task.compute)} of computing"
    return [f"{text}; with batches {times}x as large it would be a quarter of that."]
