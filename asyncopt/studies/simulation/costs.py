"""Costs of the steps of a push: measured, written, and read again."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from asyncopt import _core
from asyncopt._limits import allowed_cpus
from asyncopt.simulate import Costs, LineCost
from asyncopt.studies import machine
from asyncopt.studies.dense.contention import Case, Contention, dense_case, draw_rows
from asyncopt.studies.errors import StudyError
from asyncopt.studies.progress import Meter
from asyncopt.studies.simulation.plan import CASES, Simulation, workload_of

FILE = "costs.json"
PLAIN = "hogwild"  # the sync whose push is the update and nothing else
ONE_LINE = dense_case(_core.CACHE_LINE)
REPEATS = 5

CaseCosts = dict[str, Costs]  # by the name of the case


def pick_processors() -> tuple[int, int]:
    """Two processors that this process may use, of different cores where there are such.

    Raises:
        StudyError: there is only one.
    """
    usable = allowed_cpus()
    pairs = [*itertools.combinations(usable, 2)]
    if not pairs:
        raise StudyError(
            "the costs of sharing are measured between two processors, and this process may use "
            "one; give costs that were measured elsewhere with --costs FILE"
        )
    return next((pair for pair in pairs if pair[1] not in machine.siblings(pair[0])), pairs[0])


def measure_costs(plan: Simulation, meter: Meter) -> CaseCosts:
    """The costs of every case of the plan, none of which depends on its `compute`.

    Raises:
        StudyError: as `pick_processors`.
    """
    processors = pick_processors()
    seconds = _push_seconds(plan, meter)
    found = {}
    for name in plan.cases:
        case = CASES[name]
        words = _core.probe_words(processors)
        lines = _line_costs(processors, case)
        # The time of a push besides its lines; for a dense one, the push of a single line.
        touched = 0 if case.pattern == "dense" else workload_of(case).touched
        update, check = lines["update"], lines["check"]
        call = seconds[_like(case).name] - touched * (update.own + check)
        found[name] = Costs(call=max(call, 0.0), **words, **lines)
    return found


def _push_seconds(plan: Simulation, meter: Meter) -> dict[str, float]:
    """Push of one worker under the plainest sync, by the name of the representative case."""
    cases = {_like(CASES[name]).name: _like(CASES[name]) for name in plan.cases}
    comparison = plan.comparison((PLAIN,), REPEATS)
    rows = Contention().measure_cases([*cases.values()], comparison, 1, meter)
    return {row.case: 1 / row.updates_per_second.median for row in rows if row.sync == PLAIN}


def _like(case: Case) -> Case:
    """The case whose push has the same work outside the lines, and least inside."""
    return ONE_LINE if case.pattern == "dense" else case


def _line_costs(processors: tuple[int, int], case: Case) -> dict[str, Any]:
    """The costs per cache line, by the names of `Costs`."""
    workload = workload_of(case)

    def probe(width: int, starts: npt.NDArray[np.int64]) -> dict[str, Any]:
        found = _core.probe_lines(
            processors=processors, lines=workload.lines, width=width, starts=starts
        )
        return {
            name: LineCost(*value) if isinstance(value, tuple) else value
            for name, value in found.items()
        }

    if case.pattern != "dense":
        rows = np.sort(torch.stack(draw_rows(case, seed=0)).numpy(), axis=1)
        lines = probe(1, rows)
        return lines | {"stripe": lines["update"]}
    stripe = workload.stripe_lines
    stripes = probe(stripe, np.arange(0, workload.lines, stripe)[None, :])
    return probe(workload.lines, np.zeros((1, 1), np.int64)) | {"stripe": stripes["update"]}


def costs_text(costs: Mapping[str, Costs]) -> str:
    """The text of a file for `read_costs`."""
    return json.dumps({name: each.as_json() for name, each in costs.items()}, indent=1)


def read_costs(path: str | os.PathLike[str], cases: Iterable[str]) -> CaseCosts:
    """The costs of `cases` as an earlier run wrote them.

    Raises:
        ValueError: the file cannot be read, is none of these, or misses a case.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError) as failure:
        raise ValueError(f"cannot read {path}: {failure}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected costs by case, got {type(document).__name__}")
    missing = [name for name in cases if name not in document]
    if missing:
        raise ValueError(
            f"{path} has no costs of {missing[0]!r}; choose from {', '.join(document)} with --case"
        )
    try:
        return {name: Costs.from_json(document[name]) for name in cases}
    except ValueError as wrong:
        raise ValueError(f"{path}: {wrong}") from None
