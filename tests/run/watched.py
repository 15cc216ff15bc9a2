"""A fake run for tests of observers; the test sets its events."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from asyncopt import _core
from asyncopt.optim.reach import Trained
from asyncopt.run.board import Board
from asyncopt.run.observe import RunView
from asyncopt.store import Ledger

BUCKETS = len(_core.staleness_floors())
LAUNCHER = 0  # its slot


class Store:
    """Counts by slot, as a segment does."""

    def __init__(self, slots: int) -> None:
        self.rows: list[dict[str, Any]] = [
            {
                "slot": slot,
                "process": 0,
                "pushes": 0,
                "retries": 0,
                "lock_waits": 0,
                "lock_wait_ns": 0,
                "staleness_sum": 0,
                "staleness": [0] * BUCKETS,
            }
            for slot in range(slots)
        ]
        self.segment = self

    def ledger(self) -> list[dict[str, Any]]:
        return [row | {"staleness": list(row["staleness"])} for row in self.rows]

    def push(self, slot: int, staleness: int = 0, times: int = 1) -> None:
        row = self.rows[slot]
        row["pushes"] += times
        row["staleness_sum"] += staleness * times
        row["staleness"][staleness] += times


class Watched:
    """A fake run with the attributes that the view shows; the test sets the clock `elapsed`."""

    def __init__(self, workers: int, stores: int = 1, slots: int | None = None) -> None:
        self.board = Board(workers)
        self.stores = [Store(slots or workers + 1) for _ in range(stores)]
        self.processes: list[int | None] = [None] * workers
        self.restarts = [0] * workers
        self.elapsed = 0.0
        optimizers: Any = [
            SimpleNamespace(
                store=store,
                sharing=SimpleNamespace(worker=LAUNCHER),
                ledger=lambda: Ledger(0, ()),
            )
            for store in self.stores
        ]
        self.view = RunView(
            board=self.board,
            optimizers=optimizers,
            trained=Trained.of(()),
            workers=workers,
            process_ids=lambda: list(self.processes),
            restarts=lambda: list(self.restarts),
            elapsed=lambda: self.elapsed,
        )

    def sit(self, rank: int, process: int, store: int = 0, slot: int | None = None) -> None:
        """A process takes a rank and a slot."""
        self.processes[rank] = process
        self.stores[store].rows[rank + 1 if slot is None else slot]["process"] = process
