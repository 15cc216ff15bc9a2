"""The observer behind ``launch(..., log_dir=...)``: scalars and histograms for TensorBoard."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np

from asyncopt.run.observe import Observer, RunView
from asyncopt.run.telemetry.extras import needed
from asyncopt.run.telemetry.history import Intervals
from asyncopt.run.telemetry.metrics import scalars
from asyncopt.store.ledger import Histogram

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


__all__ = ["TensorBoard"]


class TensorBoard(Observer):
    """Writer of event files, which ``tensorboard --logdir`` shows during the run.

    The step of every value is the number of pushes that the run has made. A tag is a quantity and
    its scope: ``updates_per_second/all``, ``loss/worker_0``, ``core_use/core_1``.

    Args:
        log_dir: the folder to write to, one for each run; created if missing.
        interval: seconds between values.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, log_dir: str | os.PathLike[str], interval: float = 2.0) -> None:
        with needed("log_dir", "tensorboard"):
            import torch.utils.tensorboard as _  # noqa: F401 - said now, not when the run starts

        os.makedirs(log_dir, exist_ok=True)
        if not os.access(log_dir, os.W_OK):
            raise PermissionError(f"log_dir: expected a folder to write to, got {log_dir}")
        self.interval = interval
        self._log_dir = os.fspath(log_dir)
        self._writer: SummaryWriter | None = None
        self._pushes = 0

    def start(self, run: RunView) -> None:
        """Open the file."""
        from torch.utils.tensorboard import SummaryWriter

        self._intervals = Intervals(run)
        self._writer = SummaryWriter(self._log_dir)

    def tick(self, now: float) -> None:
        """Write the values since the last tick."""
        self._write(self.interval / 2)

    def end(self, error: BaseException | None) -> None:
        """Write the remaining values and close the file."""
        if self._writer is None:
            return
        try:
            self._write(self.interval / 100)
        finally:
            self._writer.close()

    def _write(self, least: float) -> None:
        change = self._intervals.next(least)
        if change is None or self._writer is None:
            return
        self._pushes += int(change.pushes.sum())
        for tag, value in scalars(change):
            if not math.isnan(value):
                self._writer.add_scalar(tag, value, self._pushes)
        for tag, histogram in (
            ("staleness/all", change.staleness(-1)),
            *((f"staleness/worker_{r}", change.staleness(-1, r)) for r in range(change.workers)),
        ):
            if histogram.count:
                self._write_histogram(tag, histogram)

    def _write_histogram(self, tag: str, histogram: Histogram) -> None:
        assert self._writer is not None
        filled = np.flatnonzero(histogram.counts)
        edges, counts = histogram.edges, histogram.counts[: filled[-1] + 1]
        floors = edges[: len(counts)].astype(float)
        # Shift limits by 0.5, so that integers are inside buckets, not on limits.
        limits = np.append(edges[1:], 2 * edges[-1])[: len(counts)] - 0.5
        self._writer.add_histogram_raw(
            tag,
            min=floors[filled[0]],
            max=floors[-1],
            num=histogram.count,
            sum=histogram.total,
            sum_squares=float((counts * floors**2).sum()),
            bucket_limits=limits.tolist(),
            bucket_counts=counts.tolist(),
            global_step=self._pushes,
        )
