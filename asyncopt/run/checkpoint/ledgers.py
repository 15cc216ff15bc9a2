"""Ledgers as JSON and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from asyncopt.store.ledger import Histogram, Ledger, WorkerLedger

__all__ = ["add_ledgers", "ledger_from_json", "ledger_to_json"]


def add_ledgers(*ledgers: Ledger) -> Ledger:
    """Sum of ledgers, worker by worker, over all resumes of a run."""
    workers: dict[int, WorkerLedger] = {}
    for worker in (each for ledger in ledgers for each in ledger.workers):
        before = workers.get(worker.slot)
        workers[worker.slot] = worker if before is None else before + worker
    return Ledger(sum(each.version for each in ledgers), tuple(workers.values()))


def ledger_to_json(ledger: Ledger) -> dict[str, Any]:
    """All counts, and the nonempty buckets of the histograms."""
    return {
        "version": ledger.version,
        "workers": [
            {
                **{field.name: getattr(worker, field.name) for field in _FIELDS},
                "staleness": {
                    "counts": {str(i): int(n) for i, n in enumerate(worker.staleness.counts) if n},
                    "total": worker.staleness.total,
                },
            }
            for worker in ledger.workers
        ],
    }


def ledger_from_json(data: dict[str, Any]) -> Ledger:
    """Inverse of :func:`ledger_to_json`."""
    return Ledger(data["version"], tuple(_worker(dict(each)) for each in data["workers"]))


_FIELDS = [field for field in dataclasses.fields(WorkerLedger) if field.name != "staleness"]


def _worker(counts: dict[str, Any]) -> WorkerLedger:
    staleness = counts.pop("staleness")
    buckets = np.zeros_like(Histogram(np.zeros(0, np.int64), 0).edges)
    for bucket, count in staleness["counts"].items():
        buckets[int(bucket)] = count
    return WorkerLedger(**counts, staleness=Histogram(buckets, staleness["total"]))
