"""Live progress on stderr: a bar on a terminal, a line per launch elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from asyncopt.studies.training.meter import Meter

POLL_SECONDS = 0.25  # often enough to look alive, rare enough not to disturb what is measured


class Display:
    """Progress of a whole comparison: `total` is the sum of the costs of its sections."""

    def __init__(self, console: Console, total: float) -> None:
        self._console = console
        self._done = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            auto_refresh=False,  # the thread below draws; one that draws more often costs more
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("starting", total=total)

    @contextmanager
    def section(self, title: str, cost: float, meter: Meter) -> Iterator[None]:
        """While the block runs, the bar moves by `cost` as `meter` goes from empty to full."""
        begun = time.perf_counter()
        over = threading.Event()

        def follow() -> None:
            while not over.wait(POLL_SECONDS):
                self._bar.update(self._task, completed=self._done + cost * meter.fraction)
                self._bar.refresh()

        live = self._console.is_terminal
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
        self._console.print(f"{title}: {time.perf_counter() - begun:.1f} s", highlight=False)
