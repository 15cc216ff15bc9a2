"""The live view: a table on a terminal, lines elsewhere, and the error without rich."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator

import pytest

from asyncopt._install import command
from asyncopt.run.telemetry.live import LiveView
from tests.run.watched import Watched

PACKAGE = ("rich", "rich.live", "rich.table")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(run: Watched) -> None:
    """One second: 300 pushes of one worker, 100 of the other."""
    run.elapsed += 1.0
    run.sit(0, 2**22 + 1)
    run.sit(1, 2**22 + 2)
    run.stores[0].push(1, staleness=3, times=300)
    run.stores[0].push(2, staleness=17, times=100)
    run.stores[0].rows[1]["lock_wait_ns"] += 50_000_000
    run.board.log(0, 0.125)
    run.board.mark(0, "compute")
    run.board.mark(1, "done")
    run.restarts = [0, 4]


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """A terminal of 120 columns as stdout, which must be there again in the end."""
    with pytest.MonkeyPatch.context() as patch:
        screen = Terminal()
        patch.setattr(sys, "stdout", screen)  # not in a fixture: pytest sets it before each phase
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "120")
        yield screen
        assert sys.stdout is screen


def test_lines_where_stdout_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PACKAGE:  # not needed for lines
        monkeypatch.setitem(sys.modules, name, None)
    run = Watched(workers=2)
    view = LiveView()
    view.interval = 1.0
    view.start(run.view)
    view.tick(0.0)  # at the start barrier there is nothing to say
    for _ in range(2):
        work(run)
        view.tick(0.0)
    view.end(None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1] == (
        "2.0 s, 400 updates/s, staleness 3/17, lock wait 2.50%, loss 0.125, restarts 4"
    )
    assert lines[2].startswith("in all: 2.0 s, 400 updates/s, staleness 3/17")


def test_table_on_a_terminal() -> None:
    pytest.importorskip("rich")
    run = Watched(workers=2)
    with terminal() as screen:
        view = LiveView()
        view.start(run.view)
        work(run)
        view.tick(0.0)
        view.end(None)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    rows = [line.split() for line in text.splitlines() if re.match(r" *[01] +(comp|done)", line)]
    assert ["0", "compute", "300", "3/3", "5.00%", "0", "0", "0.125", "-"] in rows
    assert ["1", "done", "100", "17/17", "0", "0", "4", "-", "-"] in rows
    assert "in all: 1.0 s, 400 updates/s" in text


def test_terminal_without_rich_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PACKAGE:
        monkeypatch.setitem(sys.modules, name, None)
    remedy = re.escape(command("telemetry"))
    said = pytest.raises(ModuleNotFoundError, match=rf"view: .*rich.*{remedy}")
    with terminal(), said:
        LiveView()


def test_a_run_that_never_started() -> None:
    pytest.importorskip("rich")
    run = Watched(workers=2)
    with terminal():
        view = LiveView()
        view.start(run.view)
        view.end(RuntimeError())
