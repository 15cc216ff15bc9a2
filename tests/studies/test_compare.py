"""``asyncopt compare`` for real, in a process of its own, as small as it gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

import asyncopt
from asyncopt.studies.dense import contention
from asyncopt.studies.errors import StudyError
from asyncopt.studies.progress import Meter, Ticker
from asyncopt.studies.training.jobs import Variant
from tests.studies import made_up
from tests.studies.test_results import check_schema

COMMAND = [sys.executable, "-m", "asyncopt", "compare", "--quick"]


@pytest.mark.slow
def test_a_quick_comparison_of_everything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--workers", "2", "--epochs", "1", "--repeats", "1", "--json", "--out", str(out)]
    done = subprocess.run(
        [*COMMAND, *options], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((out / "results.json").read_text())
    check_schema(document)
    labels = [variant.label for variant in made_up.plan().variants]
    for problem in ("mnist", "digits"):
        rows = [row for row in document["rows"] if row["problem"] == problem]
        assert [row["variant"] for row in rows] == labels
        for row in rows:
            assert row["pushes"] == {"mnist": 63, "digits": 45}[problem]
            if row["sync"]:
                assert sum(row["staleness"]["counts"]) == row["pushes"]
                assert row["test_accuracy"]["median"] > 0.3
    rows = [row for row in document["rows"] if row["problem"] == "contention"]
    for case in {row["case"] for row in rows}:
        assert [row["variant"] for row in rows if row["case"] == case] == labels
    # Losses were checked against each sync's contract while measuring; here, that they are counted.
    assert all(row["lost_updates"] is not None for row in rows if row["sync"])
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 11


@pytest.mark.slow
def test_thread_workers_and_plain_sgd(tmp_path: Path) -> None:
    options = "--problem digits --problem contention --mode thread --rule SGD --workers 2"
    done = subprocess.run(
        [
            *(*COMMAND, *options.split(), "--epochs", "3", "--repeats", "1", "--no-audit"),
            *("--sync", "hogwild", "--sync", "leashed", "--out", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "MLP on digits" in done.stdout
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    names = [row["variant"] for row in rows if row["problem"] == "digits"]
    assert names == ["hogwild", "leashed", "unshared"]


@pytest.mark.slow
def test_ctrl_c_ends_workers_and_exits_with_130(tmp_path: Path) -> None:
    options = ["--problem", "digits", "--epochs", "10000", "--workers", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*COMMAND, *options], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        parent = psutil.Process(process.pid)
        deadline = time.monotonic() + 60
        while len(parent.children(recursive=True)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(2.0)  # into the start-up or the training, as a user would
        workers = parent.children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    assert not (tmp_path / "results.json").exists()


def test_meter_adds_up_what_workers_tick() -> None:
    meter = Meter(workers=3, total=30)
    tickers = [Ticker(meter.counts, rank) for rank in range(3)]
    for ticker in tickers:
        ticker.tick(2)
        ticker.tick()
    assert meter.fraction == pytest.approx(0.3)
    tickers[0].tick(100)
    assert meter.fraction == 1.0


def push_alone(variant: Variant, pushes: int) -> contention.Job:
    """A small dense case after `pushes` pushes by one worker in this process."""
    case = contention.Case("dense 64 B", "dense", (16,))
    job = contention.Job(case, variant, contention.contender(case, variant))
    _, push, _ = contention.pusher(job, seed=0)
    for _ in range(pushes):
        push()
    return job


@pytest.mark.parametrize("sync", asyncopt.syncs())
def test_nothing_is_lost_by_one_worker(sync: str) -> None:
    job = push_alone(Variant(sync, sync, False), pushes=5)
    assert contention.lost_updates(job, 5) == 0


def test_updates_that_hogwild_lost_are_counted() -> None:
    job = push_alone(Variant("hogwild", "hogwild", False), pushes=3)
    assert contention.lost_updates(job, 4) == 16


def test_a_sync_that_breaks_its_promise_fails_the_run() -> None:
    job = push_alone(Variant("atomic", "atomic", False), pushes=3)
    with pytest.raises(StudyError, match="atomic was pushed 64 element updates and holds 48"):
        contention.lost_updates(job, 4)


def test_an_audit_that_counts_something_else_fails_the_run() -> None:
    job = push_alone(Variant("hogwild+audit", "hogwild", True), pushes=3)
    job.optimizer.share_memory(workers=1)  # type: ignore[union-attr]
    assert contention.lost_updates(job, 3) == 0
    with pytest.raises(StudyError, match="0 counted as lost"):
        contention.lost_updates(job, 4)


def test_more_than_was_pushed_fails_the_run() -> None:
    job = push_alone(Variant("hogwild", "hogwild", False), pushes=3)
    with pytest.raises(StudyError, match="this build is broken"):
        contention.lost_updates(job, 2)


def test_cases_reach_from_a_cache_line_to_beyond_the_last_level_cache() -> None:
    found = contention.cases(made_up.plan())
    dense = [case for case in found if case.pattern == "dense"]
    assert dense[0].size == 64
    assert all(smaller.size < larger.size for smaller, larger in pairwise(dense))
    assert {case.pattern for case in found} == {"dense", "skewed", "uniform"}


def test_drawn_rows_are_distinct_and_skewed_ones_overlap_more() -> None:
    skewed, uniform = contention.cases(made_up.plan())[-2:]

    def overlap(case: contention.Case) -> float:
        ours, theirs = (contention.draw_rows(case, seed) for seed in (0, 1))
        assert all(len(set(rows.tolist())) == contention.ROWS_PER_PUSH for rows in ours)
        both = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(ours, theirs, strict=True)]
        return sum(both) / len(both)

    assert overlap(skewed) > 1
    assert overlap(uniform) < 0.5
