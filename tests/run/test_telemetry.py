"""Observers of real workers, compared with the workers' own counts."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asyncopt
from asyncopt.optim.reach import Trained
from asyncopt.run.board import Board
from asyncopt.run.entry import WorkerTask
from asyncopt.run.observe import Observer
from asyncopt.run.plan import Plan
from asyncopt.run.processes import ProcessMember
from asyncopt.run.supervise import supervise
from asyncopt.run.telemetry.live import LiveView
from asyncopt.run.telemetry.recorder import Recorder
from asyncopt.run.telemetry.trace import Trace
from asyncopt.run.threads import ThreadMember
from tests.pages import check_page
from tests.run.jobs import Bias
from tests.run.telemetry_jobs import NAP, die_once, nap_and_push

MEMBERS: dict[str, Any] = {"process": ProcessMember, "thread": ThreadMember}
SECONDS = 1.5


def watch(
    observers: Sequence[Observer],
    mode: str,
    fn: Callable[..., int] = nap_and_push,
    more: tuple[Any, ...] = (),
    **options: Any,
) -> tuple[list[int], Any]:
    """Run ``fn`` in two workers; the pushes that they counted, and the shared optimizer."""
    model = Bias(4)
    opt = asyncopt.SGD(model.parameters(), lr=0.1, sync="mutex")
    opt.share_memory(workers=2)
    plan = Plan.check(workers=2, threads_per_worker=1, timeout=60, **options)
    args = (model, opt, SECONDS, *more)
    task = WorkerTask(fn, args, Trained.of(args), Board(2), plan)
    outcome = supervise(MEMBERS[mode], task, [opt], observers)
    return outcome.results, opt


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_history_agrees_with_the_workers_and_the_ledger(mode: str) -> None:
    recorder = Recorder(interval=0.2)
    pushes, opt = watch([recorder], mode)
    history = recorder.history()
    assert history.pushes.sum(axis=0).tolist() == pushes
    assert history.pushes.sum() == opt.ledger().pushes
    whole = history.whole()
    assert whole.staleness(0).counts.tolist() == opt.ledger().staleness.counts.tolist()
    assert 4 <= len(history.seconds) <= SECONDS / 0.2 + 10
    middle = history.updates_per_second[1:-1].sum(axis=1)
    assert (middle <= 2 / NAP).all()
    assert np.median(middle) > 0.2 / NAP  # on a busy machine, too
    assert not np.isnan(history.loss[-1]).any()
    used = whole.cpu_use[0]
    assert ((used >= 0) & (used < 0.9)).all()  # most of the time they sleep
    assert (history.core_use[1:] <= 1.2).all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_trace_has_every_turn(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    pushes, _ = watch([Trace(path)], mode)
    events = json.loads(path.read_text())
    for rank, made in enumerate(pushes):
        spans = [e for e in events if e["ph"] == "X" and e["tid"] == rank]
        for one, after in itertools.pairwise(spans):
            assert one["ts"] + one["dur"] <= after["ts"] + 1e-3
        names = Counter(span["name"] for span in spans)
        assert names["compute"] == names["push"] == names["pull"] == made
        computed = [span["dur"] / 1e6 for span in spans if span["name"] == "compute"]
        assert min(computed) >= NAP
        assert sorted(computed)[made // 2] < 5 * NAP


def test_a_killed_worker_and_its_replacement(tmp_path: Path) -> None:
    recorder, path = Recorder(interval=0.2), tmp_path / "trace.json"
    note = tmp_path / "note"
    with pytest.warns(RuntimeWarning, match="worker 1 was killed"):
        pushes, _ = watch([recorder, Trace(path)], "process", die_once, (note,), on_error="restart")
    history = recorder.history()
    assert history.pushes.sum(axis=0).tolist() == [pushes[0], int(note.read_text()) + pushes[1]]
    assert history.restarts[-1].tolist() == [0, 1]
    spans = [e for e in json.loads(path.read_text()) if e["ph"] == "X" and e["tid"] == 1]
    for one, after in itertools.pairwise(spans):
        assert one["ts"] + one["dur"] <= after["ts"] + 1e-3
    assert sum(span["name"] == "push" for span in spans) == int(note.read_text()) + pushes[1]


def test_lines_of_the_live_view(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView()
    view.interval = 0.5
    pushes, _ = watch([view], "process")
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    seconds, rate = (
        float(text.partition(" ")[0]) for text in last.removeprefix("in all: ").split(", ")[:2]
    )
    assert seconds * rate == pytest.approx(sum(pushes), rel=0.1)  # three digits, a tenth of a s


def test_tensorboard_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from asyncopt.run.telemetry.tensorboard import TensorBoard

    pushes, _ = watch([TensorBoard(tmp_path, interval=0.3)], "process")
    read = EventAccumulator(str(tmp_path)).Reload()
    losses = read.Scalars("loss/worker_0")
    assert len(losses) >= 3
    assert all(math.isfinite(event.value) for event in losses)
    assert read.Scalars("updates_per_second/all")[-1].step == sum(pushes)


def test_all_of_it_by_the_arguments_of_launch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    model = Bias(4)
    opt = asyncopt.SGD(model.parameters(), lr=0.1)
    run = asyncopt.launch(
        nap_and_push,
        (model, opt, SECONDS),
        workers=2,
        view=True,
        log_dir=tmp_path / "runs",
        trace=tmp_path / "trace.json",
    )
    assert run.history.pushes.sum(axis=0).tolist() == run.results
    assert run.ledger.pushes == sum(run.results)
    assert "in all: " in capsys.readouterr().out
    assert json.loads((tmp_path / "trace.json").read_text())
    (events,) = (tmp_path / "runs").iterdir()
    assert events.stat().st_size > 1000
    run.report(tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    check_page(page)
    for plot in ("loss", "throughput", "staleness", "cores", "processors"):
        assert f'data-plot="run-{plot}"' in page
