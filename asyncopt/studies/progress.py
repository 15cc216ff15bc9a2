"""Progress: counts that workers add to, and a bar on the terminal that follows them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

LINE = 8  # int64 per cache line: each worker counts on a line of its own
POLL_SECONDS = 0.25  # the bar moves, and measurements are not disturbed


def shared_zeros(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Zeros in memory that worker processes share, and that outlives them."""
    memory = torch.zeros(*size, dtype=dtype)
    memory.share_memory_()
    return memory


class Meter:
    """Progress of one launch: workers add, the parent reads.

    counts: int64 (workers * 8,) in memory that worker processes share.
    """

    def __init__(self, workers: int, total: int) -> None:
        self.total = max(total, 1)
        self.counts = shared_zeros(workers * LINE)

    @property
    def fraction(self) -> float:
        """Done so far, from 0 to 1."""
        return min(float(self.counts.sum()) / self.total, 1.0)


class Ticker:
    """A worker's end of a `Meter`; a tick costs about 0.1 us."""

    def __init__(self, counts: Tensor, rank: int) -> None:
        self._counts = counts.numpy()  # a view; indexing it is far cheaper than the tensor's
        self._place = rank * LINE

    def tick(self, steps: int = 1) -> None:
        """Count `steps` as done."""
        self._counts[self._place] += steps


class Display:
    """Progress on stderr: a bar on a terminal, a line per section elsewhere.

    Args:
        total: sum of the costs of all sections, in seconds.
        quiet: whether to show nothing.
    """

    def __init__(self, total: float, *, quiet: bool = False) -> None:
        # Imported here because workers import this module for `Ticker`.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, quiet=quiet)
        self._done = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            auto_refresh=False,  # the thread below draws; one that draws more often costs more
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=total)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def section(self, title: str, cost: float, meter: Meter) -> Iterator[None]:
        """While the block runs, the bar moves by `cost` as `meter` goes from empty to full."""
        begun = time.perf_counter()
        over = threading.Event()

        def follow() -> None:
            while not over.wait(POLL_SECONDS):
                self._bar.update(self._task, completed=self._done + cost * meter.fraction)
                self._bar.refresh()

        live = self._console.is_terminal and not self._console.quiet
        self._bar.update(self._task, description=title)
        watcher = threading.Thread(target=follow, name="asyncopt-progress", daemon=True)
        if live:
            self._bar.start()
            watcher.start()
        try:
            yield
        finally:
            over.set()
            if live:
                watcher.join()
                self._bar.stop()
        self._done += cost
        self._bar.update(self._task, completed=self._done)
        self.say(f"{title}: {time.perf_counter() - begun:.1f} s")
