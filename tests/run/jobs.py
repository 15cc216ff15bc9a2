"""Functions of the tests' workers; spawned processes import this module."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from asyncopt.errors import RunTimeout
from asyncopt.run import Worker

NAP = 0.3  # s


@dataclass
class Facts:
    """A worker's view of its environment."""

    rank: int
    world_size: int
    pid: int
    omp_num_threads: str | None
    torch_threads: int
    cpus: set[int]
    ignores_ctrl_c: bool
    daemon: bool
    argument: Any
    arrivals: list[float]
    departures: list[float]


def report(worker: Worker, argument: Any, shared: torch.Tensor) -> Facts:
    """Collect facts, meet the others twice and write to shared memory."""
    import multiprocessing

    arrivals, departures = [], []
    for meeting in range(2):
        if worker.rank == meeting:
            time.sleep(NAP / 2)
        arrivals.append(time.monotonic())
        worker.barrier()
        departures.append(time.monotonic())
    shared[worker.rank] = worker.rank + 1
    return Facts(
        rank=worker.rank,
        world_size=worker.world_size,
        pid=os.getpid(),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        torch_threads=torch.get_num_threads(),
        cpus=os.sched_getaffinity(0),
        ignores_ctrl_c=signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        daemon=multiprocessing.current_process().daemon,
        argument=argument,
        arrivals=arrivals,
        departures=departures,
    )


class Unlucky(Exception):
    """Raised by the tests' workers."""


def inner_trouble() -> NoReturn:
    raise Unlucky("boom")


def fail_one(worker: Worker, notes: Path) -> None:
    """Worker 1 raises while worker 0 sleeps."""
    (notes / str(worker.rank)).write_text(str(os.getpid()))
    worker.barrier()
    if worker.rank == 1:
        inner_trouble()
    sleep_long(worker)


def sleep_long(worker: Worker) -> None:
    for _ in range(600):
        time.sleep(0.1)


def kill_self(worker: Worker) -> None:
    if worker.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    sleep_long(worker)


def leave(worker: Worker, how: str) -> None:
    if how == "sys.exit":
        sys.exit(3)
    os._exit(4)


def skip_barrier(worker: Worker) -> str:
    """Worker 1 returns at once; returns worker 0's error at the barrier."""
    if worker.rank == 0:
        try:
            worker.barrier()
        except RunTimeout as error:
            return str(error)
    return ""


def late_for_barrier(worker: Worker, missed: torch.Tensor) -> str:
    """Worker 1 arrives after worker 0 has timed out."""
    try:
        if worker.rank == 1:
            wait_for(lambda: bool(missed))
        worker.barrier(timeout=0.1)
    except RunTimeout as error:
        missed.fill_(1)
        return str(error)
    return ""


def outstay(worker: Worker) -> None:
    """Worker 1 ignores SIGTERM, and both exceed the timeout."""
    if worker.rank == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep_long(worker)


def linger(worker: Worker) -> str:
    """Return, but leave a thread that keeps the process from exiting."""
    threading.Thread(target=sleep_long, args=(worker,)).start()
    return "done"


def return_a_lock(worker: Worker) -> Any:
    return threading.Lock()


def nothing(worker: Worker, *args: Any) -> None:
    return None


class Unwelcome:
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _refuse, ("not here",)


def _refuse(why: str) -> NoReturn:
    raise Unlucky(why)


class OneWay(Exception):
    """An exception that pickles but does not unpickle: its constructor wants two arguments."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


class Bias(torch.nn.Module):
    """One parameter whose gradient is 1 everywhere: with SGD and lr=1 a step takes 1 off."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(size))

    def forward(self) -> torch.Tensor:
        return self.bias.sum()


def count_down(
    worker: Worker, model: Bias, state: dict[str, Any], steps: int, doomed: int | None = None
) -> float:
    """Take ``steps`` steps; worker ``doomed`` fails after them."""
    optimizer = state["optimizers"][0]
    for _ in range(steps):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
    if worker.rank == doomed:
        raise Unlucky("boom")
    return float(model.bias.detach()[0])


def count_down_and_die(worker: Worker, model: Bias, state: dict[str, Any], steps: int) -> None:
    count_down(worker, model, state, steps)
    worker.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def fit(
    worker: Worker, model: torch.nn.Module, optimizer: torch.optim.Optimizer, data: torch.Tensor
) -> set[str]:
    """Least squares on the worker's share of the data; the modules imported meanwhile."""
    before = set(sys.modules)
    for x in worker.batches(data, batch_size=4, epochs=3):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    return set(sys.modules) - before


def stumble(worker: Worker, lives: torch.Tensor, falls: int) -> int:
    """Worker 1 raises in its first ``falls`` processes; the number of the one that returned."""
    lives[worker.rank] += 1
    life = int(lives[worker.rank])
    if worker.rank == 1 and life <= falls:
        inner_trouble()
    return life


def wait_for(condition: Callable[[], object], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def exists(process: int) -> bool:
    """Whether there is a process, be it a dead one that nobody has waited for."""
    return Path(f"/proc/{process}").exists()


def train_and_fall(
    worker: Worker, data: torch.Tensor, seen: torch.Tensor, dispatch: str, falls: int
) -> None:
    """Count each example; worker 1's first ``falls`` processes die in their third batch.

    The last of ``seen`` counts the falls; in their second batch the others wait for them all.
    """
    batches = worker.batches(data, batch_size=2, epochs=2, dispatch=dispatch)
    for number, batch in enumerate(batches, 1):
        seen[batch] += 1
        if worker.rank == 1 and number == 3 and seen[-1] < falls:
            seen[-1] += 1
            os.kill(os.getpid(), signal.SIGKILL)
        if worker.rank != 1:
            time.sleep(0.01)  # so that they are still there when the launcher has seen the death
            if number == 2:
                wait_for(lambda: bool(seen[-1] == falls))


def meet_thrice(worker: Worker, met: torch.Tensor, lives: torch.Tensor) -> float:
    """Worker 1 dies after the first barrier, and once more as it waits at the second."""
    lives[worker.rank] += 1
    for meeting in range(3):
        if worker.rank == 1 and lives[1] == 2 and meeting == 1:
            lives[2] = os.getpid()
            threading.Timer(NAP, os._exit, (5,)).start()
        if worker.rank == 0 and meeting == 1:
            wait_for(lambda: lives[2] and not exists(int(lives[2])))
        worker.barrier()
        met[worker.rank] += 1
        if worker.rank == 1 and lives[1] == 1:
            os._exit(5)
    return float(met[worker.rank])


def meet_without_the_lost(worker: Worker) -> int:
    if worker.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(3):
        worker.barrier()
    return worker.rank


@dataclass
class ForkFacts:
    """The process that a worker was forked from, and the worker's own state."""

    server: int
    variable: str | None
    files: tuple[int, int]
    numbers: tuple[float, float]


def report_fork(worker: Worker, variable: str) -> ForkFacts:
    return ForkFacts(
        os.getppid(),
        os.environ.get(variable),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        (random.random(), np.random.random()),  # noqa: NPY002 - the one that all share
    )


def say(worker: Worker, text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)


def leave_unfinished(worker: Worker, folder: Path) -> None:
    """A file that is not closed, and something to do at exit."""
    file = (folder / "file").open("w")
    file.write("written")
    file.cycle = file  # type: ignore[attr-defined]  # nothing but the end of all closes it
    atexit.register((folder / "at exit").touch)


def read_all(worker: Worker, tensors: list[torch.Tensor]) -> list[int]:
    return [int(tensor) for tensor in tensors]


def kill_fork_server(worker: Worker, lives: torch.Tensor) -> int:
    """Worker 1's first process kills the fork server of both."""
    lives[worker.rank] += 1
    worker.barrier()
    if worker.rank == 1 and lives[1] == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        sleep_long(worker)
    worker.barrier()
    return int(lives[worker.rank])


class LateInOne:
    """An argument whose loading takes ``seconds`` in one process, and no time in the others.

    Args:
        mark: a file that the one makes.
    """

    def __init__(self, mark: Path, seconds: float) -> None:
        self.mark, self.seconds = mark, seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return _late_in_one, (self.mark, self.seconds)


def _late_in_one(mark: Path, seconds: float) -> LateInOne:
    with contextlib.suppress(FileExistsError):
        mark.touch(exist_ok=False)
        time.sleep(seconds)
    return LateInOne(mark, seconds)


def stand_still(worker: Worker, pids: torch.Tensor, optimizer: Any = None, pushes: int = 0) -> None:
    """Worker 1 is stopped after some pushes; worker 0 gets on, and wakes it after a while."""
    pids[worker.rank] = os.getpid()
    worker.barrier()
    if worker.rank == 1:
        for _ in range(pushes):
            optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
            optimizer.step()
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    for _ in worker.batches(torch.zeros(100), batch_size=1, dispatch="dynamic"):
        time.sleep(0.05)
    os.kill(int(pids[1]), signal.SIGCONT)


def count_down_lives(
    worker: Worker, model: Bias, optimizer: torch.optim.Optimizer, lives: torch.Tensor, steps: int
) -> None:
    """Every process takes ``steps`` steps; worker 1 is restarted until its fifth."""
    count_down(worker, model, {"optimizers": [optimizer]}, steps)
    lives[worker.rank] += 1
    if worker.rank == 1 and lives[1] < 5:
        raise Unlucky("boom")


def sleep_long_enough(seconds: float) -> None:
    """In naps, so that a thread can be stopped."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def train_and_end(
    worker: Worker, model: torch.nn.Module, optimizer: Any, end: str, launcher: int
) -> None:
    """Train, and when all have made some pushes, end as `end` says."""
    for step in range(8):
        optimizer.zero_grad()
        model(torch.ones(4, 6) * (step + 1)).square().mean().backward()
        optimizer.step()
    worker.barrier()
    if end == "return":
        return
    if worker.rank == 0:
        if end == "raise":
            raise RuntimeError("out of patience")
        if end == "exit":
            sys.exit(3)
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "Ctrl-C":
            os.kill(launcher, signal.SIGINT)
    while True:
        time.sleep(0.01)


def look_up(worker: Worker, table: torch.nn.Module, optimizer: Any) -> None:
    """Name the first rows in the first step only, and others in the next ones."""
    for step in range(6):
        optimizer.zero_grad()
        table(torch.tensor([0, 1] if step == 0 else [2 + step % 3])).sum().backward()
        optimizer.step()


def nothing_but_a_name(worker: Worker, kind: type) -> tuple[str, bool]:
    """The module of a class, and whether this worker imports the same."""
    return kind.__module__, kind is Bias


def wait_for_leave(worker: Worker, flags: torch.Tensor) -> int:
    """Announce the worker, wait for permission, and return its fork server's process id."""
    flags[0] = 1
    wait_for(lambda: bool(flags[1]))
    return os.getppid()


def where_imported(worker: Worker, module: str) -> tuple[int, int, str]:
    """The process that imported a module of the tests, this process's parent, and its text."""
    found = importlib.import_module(module)
    return found.PROCESS, os.getppid(), found.TEXT


def path_of_imports(worker: Worker) -> list[str]:
    return sys.path
