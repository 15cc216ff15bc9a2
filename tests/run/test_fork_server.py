"""Workers forked by the fork server behave like newly started processes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncopt.errors import RunTimeout
from asyncopt.run import fork_server, launch, stop_fork_server
from asyncopt.run.fork_server import kept

from . import jobs
from .conftest import children, gone

VARIABLE = "ASYNCOPT_TEST_VARIABLE"


def fork_facts(workers: int = 1) -> list[jobs.ForkFacts]:
    options: dict[str, Any] = {"workers": workers, "threads_per_worker": 1, "start_timeout": None}
    return launch(jobs.report_fork, (VARIABLE,), **options).results


def test_runs_share_the_fork_server() -> None:
    first, second = fork_facts(2)
    [third] = fork_facts()
    assert os.getpid() != first.server == second.server == third.server
    ours = [*first.numbers, *second.numbers, *third.numbers]
    assert len(set(ours)) == 6  # nobody has another's random numbers


def test_a_changed_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    [before] = fork_facts()
    monkeypatch.setenv(VARIABLE, "here")
    [changed] = fork_facts()
    monkeypatch.delenv(VARIABLE)
    [after] = fork_facts()
    assert [each.variable for each in (before, changed, after)] == [None, "here", None]
    assert after.server == before.server != changed.server
    monkeypatch.setenv(VARIABLE, "there")
    assert fork_facts()[0].variable == "there"
    assert gone(changed.server)  # no more than two stay


def test_changed_limits_are_seen() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert fork_facts()[0].files == (soft, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        assert fork_facts()[0].files == (soft - 1, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_output_goes_where_it_goes_now(capfd: pytest.CaptureFixture[str]) -> None:
    fork_facts()
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
    [before] = fork_facts()
    limits = resource.prlimit(before.server, resource.RLIMIT_NOFILE)
    resource.prlimit(before.server, resource.RLIMIT_NOFILE, (20, limits[1]))
    tensors = [torch.tensor(i).share_memory_() for i in range(300)]
    with pytest.raises(OSError, match="Too many open files"):
        launch(jobs.read_all, (tensors,), workers=1, threads_per_worker=1)
    resource.prlimit(before.server, resource.RLIMIT_NOFILE, limits)
    assert fork_facts()[0].server == before.server


def test_a_fork_server_killed_between_runs_is_replaced() -> None:
    [before] = fork_facts()
    os.kill(before.server, signal.SIGKILL)
    [after] = fork_facts()
    assert gone(before.server)
    assert after.server != before.server


def test_killing_the_fork_server_kills_its_forks() -> None:
    lives = torch.zeros(2, dtype=torch.int64)
    options: dict[str, Any] = {"workers": 2, "on_error": "restart"}
    with pytest.warns(RuntimeWarning, match="was killed by SIGKILL"):
        run = launch(jobs.kill_fork_server, (lives,), **options)
    assert run.restarts == (1, 1)
    assert run.results == [2, 2]


def test_a_fork_server_that_cannot_import_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "PROGRAM", "raise SystemExit(7)")
    monkeypatch.setenv(VARIABLE, "another")
    with pytest.raises(OSError, match=r"^starting a worker: expected .* exit code 7; its stderr"):
        fork_facts()
    monkeypatch.undo()
    fork_facts()


def in_threads(call: Callable[[], object], count: int = 1) -> None:
    """Call in some threads at the same time."""
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait()
        call()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_share_the_fork_server() -> None:
    stop_fork_server()
    found: list[jobs.ForkFacts] = []
    in_threads(lambda: found.extend(fork_facts()), 20)
    assert len(found) == 20
    assert len({each.server for each in found}) == 1


def test_the_fork_server_outlives_the_thread_that_started_it() -> None:
    stop_fork_server()
    found: list[jobs.ForkFacts] = []
    in_threads(lambda: found.extend(fork_facts()))
    assert not gone(found[0].server)
    assert fork_facts()[0].server == found[0].server


def test_the_fork_server_can_be_stopped() -> None:
    [before] = fork_facts()
    stop_fork_server()
    assert gone(before.server)
    stop_fork_server()
    [after] = fork_facts()
    assert after.server != before.server


@pytest.mark.slow
def test_a_stopped_fork_server_lets_its_workers_return() -> None:
    flags = torch.zeros(2, dtype=torch.int64).share_memory_()
    servers: list[int] = []

    def run() -> None:
        servers.extend(launch(jobs.wait_for_leave, (flags,), workers=1).results)

    thread = threading.Thread(target=run)
    thread.start()
    jobs.wait_for(lambda: bool(flags[0]))
    stop_fork_server()
    [after] = fork_facts()
    flags[1] = 1
    thread.join()
    assert servers != [after.server]
    assert gone(servers[0])


def test_a_forked_child_has_one_of_its_own() -> None:
    [before] = fork_facts()
    read, write = os.pipe()
    kept.lock.acquire()  # as another thread may; the child has none that would release it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.write(write, str(fork_facts()[0].server).encode())
        finally:
            os._exit(0)
    kept.lock.release()
    os.close(write)
    with open(read) as pipe:
        [own] = map(int, pipe.read().split())
    os.waitpid(child, 0)
    assert own != before.server
    jobs.wait_for(lambda: gone(own))
    assert fork_facts()[0].server == before.server


def test_ctrl_c_cannot_end_it_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
    monkeypatch.setattr(fork_server, "PROGRAM", interrupted + fork_server.PROGRAM)
    stop_fork_server()
    fork_facts()
    stop_fork_server()


def test_a_path_longer_than_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: 128 KiB were truncated, and 208 KiB not sent."""
    long = [*sys.path, *(f"/nowhere/{number:0100}" for number in range(3000))]
    monkeypatch.setattr(sys, "path", long)
    stop_fork_server()
    assert launch(jobs.path_of_imports, workers=1).results == [long]
    stop_fork_server()


def test_a_launch_that_gives_up_leaves_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "late.py").write_text(f"open({str(fifo)!r}).read()")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        RunTimeout, match=r"^start_timeout: expected all workers to start within 0\.2"
    ):
        launch(jobs.nothing, workers=1, preload=["late"], threads_per_worker=1, start_timeout=0.2)
    server = kept.servers[-1].pid
    fifo.write_text("")
    run = launch(jobs.report_fork, (VARIABLE,), workers=1, preload=["late"], threads_per_worker=1)
    assert run.results[0].server == server
    assert children(server) == set()
