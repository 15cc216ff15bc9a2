"""Workers are forks of a process that has imported torch; they are as new ones would be."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncopt.run import fork_server, launch

from . import jobs
from .conftest import gone

VARIABLE = "ASYNCOPT_TEST_VARIABLE"


def kin(workers: int = 1) -> list[jobs.Kin]:
    options: dict[str, Any] = {"workers": workers, "threads_per_worker": 1, "start_timeout": None}
    return launch(jobs.look_at_kin, (VARIABLE,), **options).results


def test_runs_share_it() -> None:
    first, second = kin(2)
    [third] = kin()
    assert os.getpid() != first.server == second.server == third.server
    ours = [*first.numbers, *second.numbers, *third.numbers]
    assert len(set(ours)) == 6  # nobody has another's random numbers


def test_a_changed_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    [before] = kin()
    monkeypatch.setenv(VARIABLE, "here")
    [changed] = kin()
    monkeypatch.delenv(VARIABLE)
    [after] = kin()
    assert [each.variable for each in (before, changed, after)] == [None, "here", None]
    assert after.server == before.server != changed.server
    monkeypatch.setenv(VARIABLE, "there")
    assert kin()[0].variable == "there"
    assert gone(changed.server)  # no more than two stay


def test_changed_limits_are_seen() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert kin()[0].files == (soft, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        assert kin()[0].files == (soft - 1, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_output_goes_where_it_goes_now(capfd: pytest.CaptureFixture[str]) -> None:
    kin()
    read, write = os.pipe()
    kept = os.dup(1)
    try:
        os.dup2(write, 1)
        launch(jobs.say, ("to the pipe",), workers=1)
        os.dup2(kept, 1)
        launch(jobs.say, ("to where it was",), workers=1)
        os.close(write)
        assert os.read(read, 100) == b"to the pipe\n"
    finally:
        os.close(read)
        os.close(kept)
    assert capfd.readouterr() == ("to where it was\n", "TO THE PIPE\nTO WHERE IT WAS\n")


def test_nothing_is_lost_at_exit(tmp_path: Path) -> None:
    launch(jobs.leave_unfinished, (tmp_path,), workers=1)
    assert (tmp_path / "file").read_text() == "written"
    assert (tmp_path / "at exit").exists()


def test_more_descriptors_than_a_record_holds() -> None:
    tensors = [torch.tensor(i).share_memory_() for i in range(300)]
    assert launch(jobs.read_all, (tensors,), workers=1).results == [list(range(300))]


def test_no_room_for_descriptors_is_an_error_of_one_run() -> None:
    [before] = kin()
    limits = resource.prlimit(before.server, resource.RLIMIT_NOFILE)
    resource.prlimit(before.server, resource.RLIMIT_NOFILE, (20, limits[1]))
    tensors = [torch.tensor(i).share_memory_() for i in range(300)]
    with pytest.raises(OSError, match="Too many open files"):
        launch(jobs.read_all, (tensors,), workers=1, threads_per_worker=1)
    resource.prlimit(before.server, resource.RLIMIT_NOFILE, limits)
    assert kin()[0].server == before.server


def test_one_that_was_killed_between_runs_is_replaced() -> None:
    [before] = kin()
    os.kill(before.server, signal.SIGKILL)
    [after] = kin()
    assert gone(before.server)
    assert after.server != before.server


def test_one_that_is_killed_takes_its_forks_along() -> None:
    lives = torch.zeros(2, dtype=torch.int64)
    options: dict[str, Any] = {"workers": 2, "on_failure": "restart"}
    with pytest.warns(RuntimeWarning, match="was killed by SIGKILL"):
        run = launch(jobs.kill_kin, (lives,), **options)
    assert run.restarts == (1, 1)
    assert run.results == [2, 2]


def test_one_that_cannot_import_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "PROGRAM", "raise SystemExit(7)")
    monkeypatch.setenv(VARIABLE, "another")
    with pytest.raises(OSError, match=r"^starting a worker: expected .* exit code 7; its stderr"):
        kin()
    monkeypatch.undo()
    kin()


def test_it_ends_with_its_thread() -> None:
    found: list[jobs.Kin] = []
    thread = threading.Thread(target=lambda: found.extend(kin()))
    thread.start()
    thread.join()
    assert gone(found[0].server)
    assert kin()[0].server != found[0].server
