"""Made-up results of a comparison, in the right format."""

from __future__ import annotations

from typing import Any

import asyncopt
from asyncopt.studies.dense.plan import Comparison, SyncRow, with_speedups
from asyncopt.studies.machine import Machine
from asyncopt.studies.rows import Curve, Spread, Staleness
from asyncopt.studies.training.jobs import Variant

CASES = (("dense 64 B", 64), ("dense 48 MiB", 48 * 2**20), ("rows, skewed", 4 * 2**20))


def plan(**changes: Any) -> Comparison:
    options: dict[str, Any] = {
        "problems": ("mnist", "digits", "contention"),
        "syncs": asyncopt.syncs(),
        "workers": (1, 2, 4),
        "repeats": 3,
        "epochs": None,
        "rule": "Adam",
        "lr": None,
        "seed": 0,
        "mode": "process",
        "audit": True,
        "quick": False,
    }
    return Comparison(**(options | changes))


def training_row(problem: str, variant: Variant, workers: int, **changes: Any) -> SyncRow:
    seconds = Spread(tuple(base / workers for base in (1.0, 1.1, 1.3)))
    curve = Curve((0.1, 0.2, 0.3), (2.3, 1.0, 0.4))
    shared = variant.sync is not None
    fields: dict[str, Any] = {
        "problem": problem,
        "case": "",
        "case_bytes": 400,
        "variant": variant.label,
        "sync": variant.sync,
        "audit": variant.audit,
        "workers": workers,
        "seconds": seconds,
        "updates_per_second": Spread(tuple(60 / value for value in seconds.values)),
        "element_updates_per_second": Spread(tuple(6000 / value for value in seconds.values)),
        "pushes": 180,
        "lock_wait_share": 0.01,
        "lock_waits": 3,
        "retries": 2,
        "skipped_nonfinite": 0,
        "lost_updates": 120 if variant.audit and workers > 1 else None,
        "lost_share": 0.001 if variant.audit and workers > 1 else None,
        "staleness": Staleness(1.0, 3.0, 1.2, (0.0, 1.0, 2.0, 3.0), (90, 80, 10)),
        "test_loss": Spread((0.3, 0.31, 0.32)) if shared else None,
        "test_accuracy": Spread((0.9, 0.91, 0.92)) if shared else None,
        "curves": (curve, curve, curve),
    }
    if not shared:
        fields["staleness"] = None
    return SyncRow(**(fields | changes))


def rows(made: Comparison) -> list[SyncRow]:
    """One row for everything that `made` would measure."""
    found = []
    for problem in made.problems:
        for workers in made.workers:
            for variant in made.variants:
                if problem != "contention":
                    found.append(training_row(problem, variant, workers))
                    continue
                found += [
                    training_row(
                        problem,
                        variant,
                        workers,
                        case=case,
                        case_bytes=size,
                        test_loss=None,
                        test_accuracy=None,
                        curves=(),
                        lost_updates=50 if variant.sync == "hogwild" and workers > 1 else None,
                        lost_share=0.02 if variant.sync == "hogwild" and workers > 1 else None,
                    )
                    for case, size in CASES
                ]
    return with_speedups(found)


def machine(**changes: Any) -> Machine:
    """A machine without a fault."""
    fields: dict[str, Any] = {
        "processor": "Made-up 9000",
        "cores": 4,
        "usable_cores": 4,
        "cpu_quota": None,
        "hyperthreads": False,
        "governor": "performance",
        "numa_nodes": 1,
        "load": 0.1,
        "l1d": 32 * 2**10,
        "l2": 2**20,
        "l3": 32 * 2**20,
        "memory": 16 * 2**30,
        "memory_available": 12 * 2**30,
        "memory_limit": None,
        "shm": 8 * 2**30,
        "shm_free": 8 * 2**30,
        "shm_huge_pages": "advise",
        "limit_memlock": -1,
        "limit_nofile": 65536,
        "limit_fsize": -1,
        "kernel": "6.1",
        "python": "3.11.0",
        "torch": "2.13.0",
        "torch_threads": 4,
        "omp_num_threads": "1",
        "cuda": None,
        "extras": {"typer": "1"},
    }
    return Machine(**(fields | changes))
