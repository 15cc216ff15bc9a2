"""Chrome traces: spans match the workers' actions, and missing spans are counted."""

from __future__ import annotations

import itertools
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from asyncopt.run.telemetry.trace import Trace
from tests.run.watched import Watched

NAP = 0.02  # s
RING = 4096  # events that a seat remembers


def spans(path: Path, rank: int = 0) -> list[dict[str, Any]]:
    """A worker's spans in order of time; fails if two overlap."""
    found = [e for e in json.loads(path.read_text()) if e["ph"] == "X" and e["tid"] == rank]
    found.sort(key=lambda span: (span["ts"], span["ts"] + span["dur"]))
    for one, after in itertools.pairwise(found):
        assert one["dur"] >= 0
        assert one["ts"] + one["dur"] <= after["ts"] + 1e-3  # us: the last digit
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.json"


def test_spans_are_what_the_worker_did(path: Path) -> None:
    run = Watched(workers=2)
    trace = Trace(path)
    began = [time.monotonic_ns()]
    trace.start(run.view)
    began.append(time.monotonic_ns())
    run.processes = [os.getpid()] * 2
    marks: list[list[int]] = []  # the clock before and after each mark

    def mark(phase: str) -> None:
        before = time.monotonic_ns()
        run.board.mark(0, phase)
        marks.append([before, time.monotonic_ns()])

    for turn in range(3):
        for phase in ("wait", "pull", "compute", "push"):
            mark(phase)
            if phase == "compute":
                time.sleep(NAP)
        if turn == 0:
            trace.tick(time.monotonic())
    mark("done")
    run.board.mark(1, "compute")
    trace.tick(time.monotonic())
    trace.end(None)
    found = spans(path)
    assert [span["name"] for span in found] == ["wait", "pull", "compute", "push"] * 3
    for span, (early, late), (next_early, next_late) in zip(found, marks, marks[1:], strict=False):
        # In us, which are rounded.
        assert (early - began[1]) / 1e3 - 1 <= span["ts"] <= (late - began[0]) / 1e3 + 1
        assert (next_early - late) / 1e3 - 1 <= span["dur"] <= (next_late - early) / 1e3 + 1
    naps = [span["dur"] for span in found if span["name"] == "compute"]
    assert all(nap >= NAP * 1e6 for nap in naps)
    others = spans(path, rank=1)
    assert [span["name"] for span in others] == []  # it computes on: no span has ended


def test_rows_have_names(path: Path) -> None:
    trace = Trace(path)
    trace.start(Watched(workers=2).view)
    trace.end(None)
    named = [e for e in json.loads(path.read_text()) if e["name"] == "thread_name"]
    assert [(e["tid"], e["args"]["name"]) for e in named] == [(0, "worker 0"), (1, "worker 1")]


def test_a_dead_workers_last_span_ends_with_it(path: Path) -> None:
    run = Watched(workers=1)
    trace = Trace(path)
    trace.start(run.view)
    run.processes = [1]
    begun = time.monotonic_ns()
    run.board.mark(0, "compute")
    time.sleep(NAP)
    run.processes = [None]
    trace.tick(time.monotonic())
    noticed = time.monotonic_ns()
    time.sleep(5 * NAP)  # nobody is there
    run.processes = [2]
    run.board.mark(0, "start")
    run.board.mark(0, "pull")
    run.board.mark(0, "done")
    trace.tick(time.monotonic())
    trace.end(None)
    lost, *rest = spans(path)
    assert lost["name"] == "compute"
    assert NAP * 1e6 <= lost["dur"] <= (noticed - begun) / 1e3 + 1
    assert [span["name"] for span in rest] == ["start", "pull"]
    assert rest[0]["ts"] >= lost["ts"] + lost["dur"] + 4 * NAP * 1e6


def test_events_lost_to_overflow_are_counted_and_said(path: Path) -> None:
    run = Watched(workers=1)
    run.processes = [os.getpid()]
    trace = Trace(path)
    trace.start(run.view)
    run.board.mark(0, "pull")
    trace.tick(time.monotonic())
    made = 3 * RING
    for _ in range(made // 2):
        run.board.mark(0, "compute")
        run.board.mark(0, "push")
    run.board.mark(0, "done")
    with pytest.warns(RuntimeWarning, match="overwritten before they could be read"):
        trace.end(None)
    found = spans(path)
    gaps = [span["args"]["events"] for span in found if span["name"] == "lost"]
    (gap,) = gaps
    told = [span for span in found if span["name"] != "lost"]
    # Each event ends one span: those that are there and those that are lost are all.
    assert len(told) + gap == made
    assert gap >= made - RING
    (summary,) = [e for e in json.loads(path.read_text()) if e["name"] == "asyncopt"]
    assert summary["args"] == {"lost": gap, "left_out": 0}


def test_spans_beyond_the_limit_are_counted_and_said(path: Path) -> None:
    run = Watched(workers=1)
    trace = Trace(path, most=10)
    trace.start(run.view)
    for _ in range(25):
        run.board.mark(0, "compute")
    run.board.mark(0, "done")
    with pytest.warns(RuntimeWarning, match="first 10 spans; 15 later ones were left out"):
        trace.end(None)
    assert len(spans(path)) == 10


def test_a_killed_launcher_leaves_whole_lines(path: Path) -> None:
    run = Watched(workers=1)
    trace = Trace(path)
    trace.start(run.view)
    for phase in ("pull", "compute", "push"):
        run.board.mark(0, phase)
    trace.tick(time.monotonic())
    text = path.read_text()
    assert [e["name"] for e in json.loads(text.rstrip(",\n") + "]") if e["ph"] == "X"]
    trace.end(None)


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-folder"):
        Trace(tmp_path / "no-such-folder" / "trace.json")


def test_a_run_that_never_started(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trace(path).end(RuntimeError())
