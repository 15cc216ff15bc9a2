"""``Run.report``: one page, whole and self-contained, with every plot that there is data for."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest

from asyncopt._install import command
from asyncopt.run.outcome import Loss
from asyncopt.run.telemetry import plots
from asyncopt.run.telemetry.history import History
from asyncopt.run.telemetry.recorder import Recorder
from asyncopt.run.telemetry.report import report_html, write_report
from asyncopt.store.ledger import Histogram
from tests.pages import check_page
from tests.run.watched import BUCKETS, Watched

PLOTS = ("loss", "throughput", "staleness", "cores", "processors")


def history(workers: int = 2, steps: int = 20, *, log: bool = True) -> History:
    run = Watched(workers)
    recorder = Recorder(interval=1.0)
    recorder.start(run.view)
    for step in range(1, steps + 1):
        run.elapsed = float(step)
        for rank in range(workers):
            run.sit(rank, 1)  # it is always there
            run.stores[0].push(rank + 1, staleness=rank, times=10 + rank + step)
            if log:
                run.board.log(rank, 1.0 / step + rank)
        run.restarts[0] = step // 15
        recorder.tick(run.elapsed)
    recorder.end(None)
    return recorder.history()


def finished(over_time: History, **changes: Any) -> Any:
    """A run with that history."""
    staleness = np.zeros(BUCKETS, dtype=np.int64)
    staleness[[1, 4]] = 90, 10
    ledger = SimpleNamespace(
        pushes=100,
        staleness=Histogram(staleness, 130),
        lock_wait_seconds=1.0,
        retries=1234,
        lost_updates=0,
        skipped_nonfinite=0,
        repairs=1,
        unfinished=2,
    )
    loss = Loss(1, 2.5, "worker 1 was killed by <SIGKILL>", "", True, 17, 1)
    fields = {
        "results": [],
        "elapsed": 20.0,
        "updates_per_second": 5.0,
        "ledger": ledger,
        "workers": over_time.workers,
        "restarts": (1, 0),
        "losses": (loss,),
        "history": over_time,
    }
    return SimpleNamespace(**(fields | changes))


def test_page_loads_nothing_and_has_every_plot(tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    write_report(finished(history()), path)
    page = path.read_text()
    check_page(page)
    for plot in PLOTS:
        assert f'data-plot="run-{plot}"' in page
    assert list(tmp_path.iterdir()) == [path]


def test_page_tells_what_the_run_did_and_lost() -> None:
    page = report_html(finished(history()))
    for text in ("100 (5 per second)", "1/4", "2.50% of the workers", "1,234", "2.50 s", "17"):
        assert text in page
    assert "worker 1 was killed by &lt;SIGKILL&gt;" in page
    assert "<SIGKILL>" not in page


@pytest.mark.parametrize("workers", [1, 9, 40])
def test_any_number_of_workers(workers: int) -> None:
    check_page(report_html(finished(history(workers, steps=3))))


def test_without_a_loss_there_is_no_plot_of_it() -> None:
    page = report_html(finished(history(log=False), losses=()))
    assert 'data-plot="run-loss"' not in page
    assert 'data-plot="run-throughput"' in page
    assert "Workers lost" not in page


def test_a_run_too_short_for_samples() -> None:
    run = Watched(workers=1)
    recorder = Recorder()
    recorder.start(run.view)
    recorder.end(None)
    page = report_html(finished(recorder.history(), losses=()))
    check_page(page)
    assert "too short" in page


def test_core_grid_keeps_the_busy_time_of_each_core() -> None:
    over_time = history(steps=7)
    for i, sample in enumerate(over_time.samples):
        busy = float("nan") if i == 0 else 0.25 * sample.seconds
        sample.core_seconds[:] = busy
    grid = plots.core_grid(over_time, columns=240)
    assert grid.shape == (len(over_time.cores), 8)
    known = grid[~np.isnan(grid)]
    assert known.min() == pytest.approx(0.25)
    assert known.max() == pytest.approx(0.25)
    assert np.isnan(grid[:, 0]).all()  # before the first look at them


def test_numbers_that_were_drawn() -> None:
    """The throughput's curve ends where the last interval's rate is."""
    over_time = history(workers=1, steps=5)
    assert over_time.updates_per_second[:, 0].tolist() == [11, 12, 13, 14, 15]
    drawn = plots.throughput("x", over_time)
    assert len(re.findall(r'<g id="x-line2d_', drawn)) > 1


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    report_html(finished(history(steps=3)))
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        n for n in sys.modules if n.startswith(("matplotlib", "asyncopt.run.telemetry.plots"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "asyncopt.report.style")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    remedy = re.escape(command("telemetry"))
    with pytest.raises(ModuleNotFoundError, match=f"report: .*matplotlib.*; {remedy}$"):
        write_report(finished(history(steps=3)), tmp_path / "out.html")
    assert list(tmp_path.iterdir()) == []
