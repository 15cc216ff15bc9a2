"""Plan, workloads and row of a simulation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from asyncopt import _core
from asyncopt.simulate import Workload
from asyncopt.studies.dense.contention import LINE, ROW_CASES, ROWS_PER_PUSH, Case, dense_case
from asyncopt.studies.dense.plan import Comparison
from asyncopt.studies.options import several
from asyncopt.studies.rows import Row, Spread, Staleness, plain
from asyncopt.studies.study import Plan, Problem

CASES = {case.name: case for case in (*map(dense_case, (64, 2**12, 2**18, 2**22)), *ROW_CASES)}
USUAL_CASES = ("dense 4 KiB", "dense 256 KiB", "rows, skewed")
QUICK_CASES = ("dense 256 KiB", "rows, skewed")
USUAL_COMPUTES = "0,0.0001"
USUAL_CORES = "1,2,4,8,16,32,64,128"
LONGEST = 1.0  # s of computing: a measurement makes at least a few pushes


@dataclass(frozen=True)
class Simulation(Plan):
    """Options of one simulation; `computes` are seconds of computing between two pushes."""

    cases: tuple[str, ...]
    computes: tuple[float, ...]
    syncs: tuple[str, ...]
    cores: tuple[int, ...]
    repeats: int
    seed: int
    mode: str
    measure: bool
    costs: str | None
    quick: bool

    @property
    def workloads(self) -> tuple[WorkloadProblem, ...]:
        """Every case with every time of computing."""
        return tuple(
            WorkloadProblem(name, compute) for name in self.cases for compute in self.computes
        )

    def measured(self, usable_cores: int) -> tuple[int, ...]:
        """The worker counts that are measured as well, each worker on a core of its own."""
        return tuple(n for n in self.cores if n <= usable_cores) if self.measure else ()

    def comparison(self, syncs: tuple[str, ...], repeats: int) -> Comparison:
        """The measurement as a comparison of syncs."""
        return Comparison(
            problems=("contention",),
            syncs=syncs,
            workers=self.cores,
            repeats=repeats,
            epochs=None,
            rule="SGD",
            lr=None,
            seed=self.seed,
            mode=self.mode,
            audit=False,
            quick=self.quick,
        )


class WorkloadProblem(Problem):
    """A case of the contention microbenchmark, with a time of computing between two pushes.

    Args:
        key: name of the case, which decides the costs.
        compute: seconds of computing between two pushes.
    """

    def __init__(self, key: str, compute: float) -> None:
        self.key = key
        self.name = self.title = f"{key}, {compute_text(compute)}"
        self.case = CASES[key]._replace(name=self.name, compute=compute)


def workload_of(case: Case) -> Workload:
    """The input of the simulation for a case."""
    lines = case.size // _core.CACHE_LINE
    stripe_lines = 1
    while lines > stripe_lines * _core.MAX_STRIPES:  # as in the store
        stripe_lines *= 2
    dense = case.pattern == "dense"
    return Workload(
        lines=lines,
        touched=lines if dense else ROWS_PER_PUSH * case.shape[1] // LINE,
        compute=case.compute,
        skew=1.0 if case.pattern == "skewed" else 0.0,
        stripe_lines=stripe_lines,
    )


def compute_text(seconds: float) -> str:
    """``pushes only``; ``100 us between``."""
    return "pushes only" if seconds == 0 else f"{seconds * 1e6:.4g} us between"


def parse_computes(computes: str | float | Iterable[float]) -> tuple[float, ...]:
    """Seconds, sorted, without repeats; of text like ``0,0.0001`` or of numbers.

    Raises ValueError: not numbers from 0 to `LONGEST`.
    """
    wrong = f"expected seconds from 0 to {LONGEST:g} with commas, like 0,0.0001; got {computes!r}"
    try:
        parts = computes.split(",") if isinstance(computes, str) else several(computes)
        found = sorted({float(part) for part in parts})
    except (TypeError, ValueError):
        raise ValueError(wrong) from None
    if not found or not all(0 <= seconds <= LONGEST for seconds in found):
        raise ValueError(wrong)
    return tuple(found)


@dataclass(frozen=True)
class PredictionRow(Row):
    """A prediction, and the measurement beside it (None: not measured).

    `problem` is the case and the seconds of computing in words. Rates are pushes per second of all
    cores together; `waits` and `retries` are per push.
    """

    case: str
    compute: float
    sync: str
    cores: int
    updates_per_second: float
    staleness_mean: float
    staleness_p50: int
    staleness_p99: int
    waits: float
    retries: float
    measured_updates_per_second: Spread | None = None
    measured_staleness: Staleness | None = None

    @property
    def error(self) -> float | None:
        """Error of the rate, against the median measured: 0.1 is a tenth too fast."""
        if self.measured_updates_per_second is None:
            return None
        return self.updates_per_second / self.measured_updates_per_second.median - 1

    @property
    def staleness_error(self) -> float | None:
        """Error of the mean staleness; None also where none was stale."""
        if self.measured_staleness is None or self.measured_staleness.mean == 0:
            return None
        return self.staleness_mean / self.measured_staleness.mean - 1

    def as_json(self) -> dict[str, Any]:
        """All fields by name, and the errors."""
        fields = super().as_json()
        return {"workload": fields.pop("problem"), **fields, **self._errors}

    def columns(self) -> dict[str, Any]:
        """One line of a frame, with the errors."""
        return super().columns() | self._errors

    @property
    def _errors(self) -> dict[str, Any]:
        return {"error": plain(self.error), "staleness_error": plain(self.staleness_error)}
