"""Findings of a simulation: sentences derived from the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asyncopt.report.text import rate_text, workers_text
from asyncopt.studies.simulation.plan import PredictionRow

USABLE = 0.5  # a larger median error of the rates makes them useless
NEAR = 0.9  # of the best rate that a sync reaches on any number of cores


def findings(rows: Sequence[PredictionRow]) -> list[str]:
    """Findings of one workload: errors, the fastest sync, and the end of scaling."""
    most = max(row.cores for row in rows)
    return [*_errors(rows), _ahead([r for r in rows if r.cores == most]), *_ends(rows, most)]


def recommendation(rows: Sequence[PredictionRow]) -> str:
    """The sync and the number of cores that the predictions speak for."""
    off = [abs(row.error) for row in rows if row.error is not None]
    if off and (middle := float(np.median(off))) > USABLE:
        return (
            f"None: against what was measured here, predictions are off by {middle:.0%} at the "
            "median. Measure with asyncopt compare."
        )
    best = max(rows, key=lambda row: row.updates_per_second)
    own = sorted((row for row in rows if row.sync == best.sync), key=lambda row: row.cores)
    enough = next(r for r in own if r.updates_per_second >= NEAR * best.updates_per_second)
    more = "the most that was asked for"
    if enough.cores < own[-1].cores:
        more = f"more cores add less than {1 / NEAR - 1:.0%}"
    rate = rate_text(enough.updates_per_second)
    return f"Use {best.sync} on {enough.cores} cores: {rate} updates/s predicted; {more}."


def error_text(error: float) -> str:
    """``+4%``, ``-12%``."""
    return f"{error:+.0%}"


def _errors(rows: Sequence[PredictionRow]) -> list[str]:
    """Errors of the rates that were measured as well, by number of workers."""
    sentences = []
    for cores in dict.fromkeys(row.cores for row in rows):
        off = [
            (row.error, row.sync) for row in rows if row.cores == cores and row.error is not None
        ]
        if not off:
            continue
        worst, sync = max(off, key=lambda pair: abs(pair[0]))
        middle = float(np.median([abs(error) for error, _ in off]))
        sentences.append(
            f"Against {workers_text(cores)} measured, the rate is off by "
            f"{middle:.0%} at the median, and at most by {error_text(worst)} ({sync})."
        )
    return sentences


def _ahead(rows: Sequence[PredictionRow]) -> str:
    """The two fastest syncs on the most cores, and the staleness."""
    ranked = sorted(rows, key=lambda row: -row.updates_per_second)
    first = ranked[0]
    text = (
        f"On {first.cores} cores {first.sync} would make {rate_text(first.updates_per_second)} "
        f"updates/s at a mean staleness of {first.staleness_mean:.0f} (p99 {first.staleness_p99})"
    )
    if len(ranked) > 1:
        ratio = first.updates_per_second / ranked[1].updates_per_second
        text += f", {ratio:.2f}x {ranked[1].sync}"
    return f"{text}."


def _ends(rows: Sequence[PredictionRow], most: int) -> list[str]:
    """The number of cores beyond which a sync does not scale."""
    ends = []
    for sync in dict.fromkeys(row.sync for row in rows):
        own = sorted((row for row in rows if row.sync == sync), key=lambda row: row.cores)
        best = max(row.updates_per_second for row in own)
        enough = next(row for row in own if row.updates_per_second >= NEAR * best)
        if enough.cores < most:
            cores = f"{enough.cores} core{'s' if enough.cores > 1 else ''}"
            ends.append(f"{sync} beyond {cores} ({rate_text(best)}/s)")
    return [f"Does not scale: {', '.join(ends)}."] if ends else []
