"""Workers end when the launching process is killed or interrupted, or lacks a main guard."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import descendants, gone

LAUNCHER = Path(__file__).with_name("launcher.py")
LIMIT = 30.0  # s for the workers of a dead launcher to be gone; 2 on an idle machine


@contextmanager
def launcher(
    script: Path = LAUNCHER, *arguments: str, folder: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The program in a session of its own, as a terminal would start it.

    Its modules are found in ``folder`` first.
    """
    path = [*([] if folder is None else [str(folder)]), *filter(None, sys.path)]
    with subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def announced(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(2)]


def wait_until(true: Callable[[], bool], limit: float) -> None:
    deadline = time.monotonic() + limit
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("after a thread",)])
def test_workers_die_with_a_killed_launcher(arguments: tuple[str, ...]) -> None:
    """Also if the fork server was started by a thread that has ended."""
    with launcher(LAUNCHER, *arguments) as process:
        announced(process)
        pids = descendants(process.pid)
        assert len(pids) == 3
        process.kill()
        wait_until(lambda: all(map(gone, pids)), LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_workers_die_with_a_launcher_killed_while_they_start(processes: int) -> None:
    """Two workers, forks of a process that imports torch first."""
    with launcher() as process:
        wait_until(lambda: len(descendants(process.pid)) == processes, limit=60)
        pids = descendants(process.pid)
        process.kill()
        wait_until(lambda: all(map(gone, pids)), LIMIT)


def test_ctrl_c_ends_all_quietly() -> None:
    with launcher() as process:
        pids = announced(process)
        os.killpg(process.pid, signal.SIGINT)  # launcher and workers alike, as a terminal does
        stdout, stderr = process.communicate(timeout=30)
        assert stdout == "ended: KeyboardInterrupt\n"
        assert stderr == "interrupted\n"
        assert process.returncode == 1
        assert all(map(gone, pids))


def test_ctrl_c_while_the_fork_server_starts(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif '--multiprocessing-fork' in sys.orig_argv: open({str(fifo)!r}).read()\n"
    )

    def opened_by(pid: int) -> list[str]:
        found = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                found.append(os.readlink(link))
        return found

    with launcher(folder=tmp_path) as process, open(os.open(fifo, os.O_RDWR)):
        wait_until(lambda: len(descendants(process.pid)) == 1, limit=60)
        [server] = descendants(process.pid)
        wait_until(lambda: str(fifo) in opened_by(server), limit=60)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        assert stdout == "ended: KeyboardInterrupt\n"
        assert stderr == "interrupted\n"
        assert gone(server)


def test_sigterm_ends_the_run_and_then_the_launcher() -> None:
    with launcher() as process:
        pids = announced(process)
        process.terminate()
        stdout, stderr = process.communicate(timeout=30)
        assert stdout == "ended: _Terminated\n"
        assert stderr == ""
        assert process.returncode == -signal.SIGTERM
        assert all(map(gone, pids))


def test_a_script_without_a_main_guard_gets_an_error(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from asyncopt.run import launch\ndef fn(worker): pass\nlaunch(fn, workers=1)\n"
    )
    with launcher(script) as process:
        _, stderr = process.communicate(timeout=60)
    assert "WorkerError: worker 0 exited with code 1 before fn returned" in stderr
    assert 'needs its call under `if __name__ == "__main__":`' in stderr
