"""What one ``asyncopt simulate`` predicts: the options, checked."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from asyncopt import _core
from asyncopt.simulate import Workload
from asyncopt.studies.dense.contention import LINE, ROW_CASES, ROWS_PER_PUSH, Case, dense_case
from asyncopt.studies.dense.plan import Plan as Comparison

CASES = {case.name: case for case in (*map(dense_case, (64, 2**12, 2**18, 2**22)), *ROW_CASES)}
USUAL_CASES = ("dense 4 KiB", "dense 256 KiB", "rows, skewed")
QUICK_CASES = ("dense 256 KiB", "rows, skewed")
USUAL_COMPUTES = "0,0.0001"
USUAL_CORES = "1,2,4,8,16,32,64,128"
LONGEST = 1.0  # s of computing: a measurement makes at least a few pushes


@dataclass(frozen=True)
class Plan:
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
    def workloads(self) -> tuple[tuple[str, Case], ...]:
        """What is simulated, and measured: each with the name of the case whose costs it has."""
        return tuple(
            (name, CASES[name]._replace(name=f"{name}, {compute_text(compute)}", compute=compute))
            for name in self.cases
            for compute in self.computes
        )

    def measured(self, usable_cores: int) -> tuple[int, ...]:
        """The worker counts that are measured as well, each worker on a core of its own."""
        return tuple(n for n in self.cores if n <= usable_cores) if self.measure else ()

    def comparison(self, syncs: tuple[str, ...], repeats: int) -> Comparison:
        """The measurement as one of ``asyncopt compare``."""
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

    def as_json(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)


def workload_of(case: Case) -> Workload:
    """A case of the contention microbenchmark as the simulation has it."""
    lines = case.size // _core.CACHE_LINE
    stripe_lines = 1
    while lines > stripe_lines * _core.MAX_STRIPES:  # as the store sets up its stripes
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


def parse_computes(text: str) -> tuple[float, ...]:
    """Seconds from text like ``0,0.0001``, sorted, without repeats.

    Raises ValueError: not numbers from 0 to `LONGEST`.
    """
    wrong = f"expected seconds from 0 to {LONGEST:g} with commas, like 0,0.0001; got {text!r}"
    try:
        computes = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise ValueError(wrong) from None
    if not all(math.isfinite(seconds) and 0 <= seconds <= LONGEST for seconds in computes):
        raise ValueError(wrong)
    return tuple(computes)
