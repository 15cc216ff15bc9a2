"""Workers as processes: failures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncopt.errors import RunTimeout, WorkerError
from asyncopt.run import launch, member, supervise

from . import jobs
from .conftest import gone


def test_an_exception_ends_the_others_and_is_raised_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        launch(jobs.fail_one, (tmp_path,), workers=2)
    error = caught.value
    assert error.rank == 1
    assert error.message.startswith("worker 1 raised ")
    assert error.message.endswith("jobs.Unlucky: boom")
    assert "in inner_trouble" in error.traceback
    assert "in fail_one" in error.traceback
    assert error.traceback.strip() in str(error)
    assert isinstance(error.__cause__, jobs.Unlucky)
    assert all(gone(int(note.read_text())) for note in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_worker() -> None:
    with pytest.raises(WorkerError, match=r"^worker 1 was killed by SIGKILL") as caught:
        launch(jobs.kill_self, workers=2)
    assert caught.value.rank == 1
    assert caught.value.traceback == ""
    assert caught.value.__cause__ is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("sys.exit", r"^worker 0 called sys\.exit\(3\) before fn returned"),
        ("os._exit", r"^worker 0 exited with code 4 before fn returned"),
    ],
)
def test_a_worker_that_leaves(how: str, message: str) -> None:
    with pytest.raises(WorkerError, match=message):
        launch(jobs.leave, (how,), workers=1)


def test_the_timeout_ends_workers_that_ignore_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "TERM_GRACE", 0.5)
    with pytest.raises(RunTimeout, match=r"within 0\.5 s, workers 0, 1 did not") as caught:
        launch(jobs.outstay, workers=2, timeout=0.5)
    assert caught.value.ranks == (0, 1)


@pytest.mark.parametrize("is_first", [False, True])
def test_the_start_has_a_timeout_too(
    is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow import of torch, as in the first launch, or an argument slow to unpickle."""
    if is_first:
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
        late: tuple[Any, ...] = ()
    else:
        launch(jobs.nothing)
        late = (jobs.LateInOne(tmp_path / "mark", 60.0), jobs.LateInOne(tmp_path / "other", 60.0))
    start = time.monotonic()
    with pytest.raises(RunTimeout, match=r"^start_timeout: .* within 0\.2 s, workers 0, 1 did not"):
        launch(jobs.nothing, late, workers=2, start_timeout=0.2)
    assert time.monotonic() - start < 45  # the arguments take 60 s


def test_a_barrier_that_somebody_skips() -> None:
    run = launch(jobs.skip_barrier, workers=2)
    assert "worker 1 returned without it" in run.results[0]


def test_a_barrier_that_somebody_is_late_for_is_broken_for_all() -> None:
    first, second = launch(jobs.late_for_barrier, (torch.zeros(1),), workers=2).results
    assert "worker 1 did not come" in first
    assert second == first


def test_arguments_that_do_not_unpickle() -> None:
    with pytest.raises(WorkerError, match=r"^worker 0 could not unpickle fn and args: ") as caught:
        launch(jobs.nothing, (jobs.Unwelcome(),), workers=1)
    assert "in _refuse" in caught.value.traceback
    assert isinstance(caught.value.__cause__, jobs.Unlucky)


def test_a_result_that_does_not_pickle() -> None:
    with pytest.raises(WorkerError, match=r"result of fn: expected an object that pickle can send"):
        launch(jobs.return_a_lock, workers=1)


def test_a_worker_that_returns_but_does_not_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "EXIT_GRACE", 0.5)
    with pytest.warns(RuntimeWarning, match=r"^worker 0 returned from fn but then did not exit"):
        run = launch(jobs.linger, workers=1)
    assert run.results == ["done"]
