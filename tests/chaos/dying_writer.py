"""A program whose children are interrupted while they write a checkpoint.

It forks, which takes milliseconds; a new process takes seconds to import torch. It has started no
thread. Arguments: the fault that stops the writers, a scratch directory, the number of rounds. It
prints the state of the checkpoints as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from asyncopt.errors import CheckpointError
from asyncopt.run.checkpoint import Checkpoint, load, resume
from asyncopt.run.checkpoint.checkpoint import Snapshot
from asyncopt.run.checkpoint.directory import Directory
from tests.chaos.faults import DEATHS, At, replaced

DIED, REFUSED = 9, 3  # exit statuses of writers

found: Counter[str] = Counter()
problems: list[str] = []


def snapshot(number: int, size: int = 6) -> Snapshot:
    """Different in every element for every number."""
    tensors = [torch.full((size,), float(number)), torch.full((size, 2), float(-number))]
    model = torch.nn.ParameterList(tensors)
    return Snapshot.take(model, step=number, meta={"number": number})


def is_whole(checkpoint: Checkpoint | None, number: int) -> bool:
    """Whether it is checkpoint ``number`` bit for bit."""
    if checkpoint is None or (checkpoint.step, checkpoint.meta) != (number, {"number": number}):
        return False
    values = {name: set(tensor.view(-1).tolist()) for name, tensor in checkpoint.tensors.items()}
    return values == {"modules.0.0": {number}, "modules.0.1": {-number}}


def write(path: Path, number: int, keep: int, size: int = 6) -> None:
    with Directory(path, write=True) as directory:
        snapshot(number, size).write(directory, keep)


def write_under(fault: At, path: Path, number: int, keep: int) -> None:
    with replaced(fault):
        write(path, number, keep)


def write_limited(limit: int, path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    write(path, 2, keep=2)


def in_child(act: Callable[[], object]) -> int:
    """The exit status of a forked child that calls ``act``."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except CheckpointError:
            os._exit(REFUSED)
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_outcome(path: Path, what: str, old: int, keep: int) -> None:
    """After a writer of ``old + 1`` was stopped: one of both is whole; the next write works."""
    newest = resume(path)
    one = next((name for name, n in (("old", old), ("new", old + 1)) if is_whole(newest, n)), "")
    found[one or "neither"] += 1
    if not one or not all_whole(path):
        problems.append(f"{what}: found {newest} among {names(path)}")
    write(path, old + 2, keep)
    if not is_whole(resume(path), old + 2):
        problems.append(f"{what}: the next one is not whole")
    left = names(path)
    if len(left) != min(keep, old + 2) or not all(name.startswith("checkpoint-") for name in left):
        problems.append(f"{what}: {left} is left")


def names(path: Path) -> list[str]:
    """Names in the directory, without the lock."""
    return sorted(each.name for each in path.iterdir() if each.name != ".lock")


def all_whole(path: Path) -> bool:
    """Raise unless everything named like a checkpoint is whole."""
    return all(load(path / name) for name in names(path) if name.startswith("checkpoint-"))


def fill(path: Path, count: int, keep: int) -> None:
    for number in range(1, count + 1):
        write(path, number, keep)


def killed(scratch: Path, turn: int) -> None:
    """Death before, in and after every call."""
    keep, old = 1 + turn % 3, 1 + (turn + 1) % 3
    for death in DEATHS:
        k, status = 0, DIED
        while status == DIED:
            path = scratch / f"{turn}-{death.__name__}-{k}"
            fill(path, old, keep)
            fault = At(k, death)

            status = in_child(functools.partial(write_under, fault, path, old + 1, keep))
            check_outcome(path, f"{death.__name__} call {k}, {old} before, keep {keep}", old, keep)
            k += 1


def limited(scratch: Path, turn: int) -> None:
    """No file may be larger than so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit, status = 0, REFUSED
    while status == REFUSED:
        path = scratch / f"{turn}-limit-{limit}"
        fill(path, 1, 2)

        status = in_child(functools.partial(write_limited, limit, path))
        check_outcome(path, f"files of {limit} bytes", 1, 2)
        limit += 211 + turn


def full(scratch: Path, turn: int) -> None:
    """Ever larger checkpoints, in a file system that has no room for the last one."""
    status, power = 0, 4
    while status == 0 and power < 24:
        path = scratch / str(power)
        fill(path, 1, 2)
        status = in_child(functools.partial(write, path, 2, 2, 1 << power))
        if status == 0:
            shutil.rmtree(path)
        power += 1
    if status != REFUSED:
        problems.append(f"a full file system: exit status {status}")
    check_outcome(path, "a full file system", 1, 2)


if __name__ == "__main__":
    os.fsync = lambda fd: None  # to save time: data that a process has written survives its death
    act = {"killed": killed, "limited": limited, "full": full}[sys.argv[1]]
    for turn in range(int(sys.argv[3])):
        act(Path(sys.argv[2]), turn)
    print(json.dumps({"found": found, "problems": problems}))
