"""The observer behind ``launch(..., view=True)``: a live table of workers in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from asyncopt.report import table as tables
from asyncopt.run.observe import Observer, RunView
from asyncopt.run.telemetry.extras import needed
from asyncopt.run.telemetry.history import History, Intervals
from asyncopt.run.telemetry.tables import sentence, workers_table

if TYPE_CHECKING:
    from rich.table import Table


__all__ = ["LiveView"]

REDRAW = 0.5  # s between redraws on a terminal
PRINT = 5.0  # s between lines if stdout is not a terminal


class LiveView(Observer):
    """A table that is redrawn on a terminal; a line every 5 s if stdout is not a terminal.

    Rates and shares cover the time since the last update; at the end they cover the whole run.

    Raises:
        ModuleNotFoundError: stdout is a terminal, and rich is not installed.
    """

    def __init__(self) -> None:
        self._screen = _Screen() if sys.stdout.isatty() else None
        self.interval = PRINT if self._screen is None else REDRAW

    def start(self, run: RunView) -> None:
        """Show the first state."""
        self._view = run
        self._intervals = Intervals(run)
        if self._screen is not None:
            self._screen.start()

    def tick(self, now: float) -> None:
        """Show the interval since the last tick."""
        self._show(self._intervals.next(self.interval / 2))

    def end(self, error: BaseException | None) -> None:
        """Show the whole run, and leave that on the terminal."""
        try:
            self._show(self._intervals.whole(), "in all: ")
        finally:
            if self._screen is not None:
                self._screen.stop()

    def _show(self, change: History | None, prefix: str = "") -> None:
        if change is None:
            return
        said = prefix + sentence(change)
        if self._screen is None:
            print(said, flush=True)
        else:
            phases = [self._view.board.seat(rank)["phase"] for rank in range(self._view.workers)]
            self._screen.draw(said, workers_table(change, phases))


class _Screen:
    """A table that rich redraws in place on the terminal."""

    def __init__(self) -> None:
        with needed("view", "rich"):
            from rich.live import Live

        # No refresh thread: ticks draw. Output of the program appears above the table.
        self._live = Live(auto_refresh=False)

    def start(self) -> None:
        self._live.start()

    def draw(self, title: str, contents: tables.Table) -> None:
        self._live.update(_drawn(title, contents), refresh=True)

    def stop(self) -> None:
        self._live.stop()


def _drawn(title: str, contents: tables.Table) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, (heading, _) in enumerate(contents.headings):
        table.add_column(heading, justify="left" if place < contents.left else "right")
    for line in contents.rows:
        table.add_row(*line.cells, style="dim" if line.aside else None)
    return table
