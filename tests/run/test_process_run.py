"""Workers as processes: properties of one successful run."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import torch

from asyncopt.run import Run, launch

from . import jobs
from .conftest import gone


@pytest.fixture(scope="module")
def shared() -> torch.Tensor:
    return torch.zeros(2)


@pytest.fixture(scope="module", autouse=True)
def run(shared: torch.Tensor) -> Run:
    return launch(jobs.report, ({"x": 1}, shared), workers=2, pin=True, threads_per_worker=1)


def test_results_come_in_the_order_of_ranks(run: Run) -> None:
    assert [facts.rank for facts in run.results] == [0, 1]
    assert [facts.world_size for facts in run.results] == [2, 2]
    assert [facts.argument for facts in run.results] == [{"x": 1}, {"x": 1}]
    assert run.workers == 2
    assert len({os.getpid(), *(facts.pid for facts in run.results)}) == 3


def test_processes_are_gone(run: Run) -> None:
    assert all(gone(facts.pid) for facts in run.results)


def test_threads_and_environment_of_the_workers(run: Run) -> None:
    assert [facts.torch_threads for facts in run.results] == [1, 1]
    assert [facts.omp_num_threads for facts in run.results] == ["1", "1"]


def test_pinning(run: Run) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    expected = [{allowed[rank % len(allowed)]} for rank in range(2)]
    assert [facts.cpus for facts in run.results] == expected


def test_workers_leave_ctrl_c_to_the_parent_and_may_have_children(run: Run) -> None:
    assert all(facts.ignores_ctrl_c and not facts.daemon for facts in run.results)


def test_elapsed_is_the_work_without_the_start(run: Run, tmp_path: Path) -> None:
    assert run.elapsed >= jobs.NAP
    start = time.monotonic()
    elapsed = launch(jobs.nothing, (jobs.LateInOne(tmp_path / "mark", 1.0),), workers=2).elapsed
    assert elapsed < time.monotonic() - start - 1.0


def test_no_worker_leaves_a_barrier_before_all_have_arrived(run: Run) -> None:
    for meeting in range(2):
        last = max(facts.arrivals[meeting] for facts in run.results)
        assert all(facts.departures[meeting] >= last for facts in run.results)


def test_tensors_are_shared_not_copied(shared: torch.Tensor, run: Run) -> None:
    assert shared.tolist() == [1, 2]


def test_reprs_are_one_line(run: Run) -> None:
    assert repr(run) == str(run)
    assert re.fullmatch(r"\d+ workers: 0 updates in \d+\.\d s \(0/s\)", str(run))
    assert re.fullmatch(r"History\(\d+ samples, \d+\.\d s\)", repr(run.history))


def test_a_run_without_optimizers_has_an_empty_ledger(run: Run) -> None:
    assert run.ledger.pushes == 0
    assert run.updates_per_second == 0
