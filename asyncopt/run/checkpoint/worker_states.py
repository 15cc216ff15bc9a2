"""Private state of workers for checkpoints, handed over when a worker parks.

A state consists of random states and, from the worker's own copies of ``args``, the schedulers, the
hyperparameters that they set, extra state of modules, and the seeds of stochastic rounding. A
worker of a resumed run restores its state in the loop over batches in which it was handed over,
just before the next batch; ``fn`` runs again from its start up to there. A worker also publishes
the settings of its loops, which its replacement and a resumed run must match.
"""

from __future__ import annotations

import json
import os
import struct
import weakref
import zlib
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

import safetensors.torch
import torch

from asyncopt.errors import CheckpointError
from asyncopt.run import random_states
from asyncopt.run.checkpoint.contents import Contents
from asyncopt.run.checkpoint.loops import KEPT, Settings, check_loop

__all__ = ["WorkerState", "WorkerStates", "private_of"]

ROOM = 1 << 20  # maximum bytes of one state; typical states use about 10 KB
_SLOTS = 3  # per worker: state handed over, state to restore, settings of its loops
_HEADER = struct.Struct("<QI")  # length, CRC-32


class WorkerStates:
    """Memory for the states that a run's workers hand over, and for those that they restore.

    An unnamed memfd, readable by its owner only. A worker writes its own slot before it parks, and
    the launcher reads it while the worker is parked; neither waits for the other.

    Args:
        fd: the descriptor, in a worker; None: make a new memfd.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("asyncopt-worker-states", os.MFD_CLOEXEC)
            os.fchmod(fd, 0o600)
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def put(self, rank: int, data: bytes) -> None:
        """Hand over the state of worker ``rank``.

        Raises:
            CheckpointError: it is too large.
        """
        self._write(_SLOTS * rank, data)

    def get(self, rank: int) -> bytes | None:
        """State that worker ``rank`` handed over last."""
        return self._read(_SLOTS * rank)

    def leave(self, rank: int, data: bytes) -> None:
        """Leave state that worker ``rank`` of a resumed run restores."""
        self._write(_SLOTS * rank + 1, data)

    def collect(self, rank: int) -> bytes | None:
        """State left for worker ``rank``; None after :meth:`discard`."""
        return self._read(_SLOTS * rank + 1)

    def discard(self, rank: int) -> None:
        """Drop the state left for worker ``rank``: a replacement must not restore it again."""
        self._write(_SLOTS * rank + 1, b"")

    def put_loops(self, rank: int, loops: dict[int, Settings]) -> None:
        """Publish the settings of the last loops of worker ``rank``, by their numbers."""
        self._write(_SLOTS * rank + 2, json.dumps(list(loops.items())).encode())

    def loops(self, rank: int) -> dict[int, Settings]:
        """The settings of the last loops of worker ``rank``."""
        data = self._read(_SLOTS * rank + 2)
        return {} if data is None else dict(json.loads(data))

    def _write(self, slot: int, data: bytes) -> None:
        if len(data) > ROOM - _HEADER.size:
            raise CheckpointError(
                f"args: expected schedulers and hyperparameters of less than {ROOM:,} bytes, got "
                f"{len(data):,}; keep large tensors out of them"
            )
        os.pwrite(self._fd, _HEADER.pack(len(data), zlib.crc32(data)) + data, slot * ROOM)

    def _read(self, slot: int) -> bytes | None:
        header = os.pread(self._fd, _HEADER.size, slot * ROOM)
        if len(header) < _HEADER.size:
            return None
        size, checksum = _HEADER.unpack(header)
        data = os.pread(self._fd, size, slot * ROOM + _HEADER.size)
        whole = len(data) == size and zlib.crc32(data) == checksum
        return data if data and whole else None

    def __reduce__(self) -> tuple[Callable[[Any], WorkerStates], tuple[Any]]:
        return _open_worker_states, (reduction.DupFd(self._fd),)


def _open_worker_states(descriptor: Any) -> WorkerStates:
    return WorkerStates(descriptor.detach())


class WorkerState:
    """The worker's side.

    Args:
        worker_states: of the run.
        rank: the worker's.
        trained: its own copies of the trained objects.

    Attributes:
        goes_on: True if the worker continues where another one was.
    """

    def __init__(self, worker_states: WorkerStates, rank: int, trained: object) -> None:
        self._worker_states = worker_states
        self._rank = rank
        self._contents = Contents(trained)
        self._place = -1
        self._left = worker_states.collect(rank)
        self._left_in = -1 if self._left is None else _unpack(self._left)[0]["loop"]
        self._loops = worker_states.loops(rank)
        self.goes_on = bool(self._loops)

    def enter(
        self, loop: int, settings: Settings, reached: Callable[[], int], total: Callable[[], int]
    ) -> None:
        """Record the worker's ``loop``-th loop; the arguments are those of ``on_loop``.

        Raises:
            CheckpointError: the loop was begun with other settings.
        """
        if (then := self._loops.get(loop)) is not None:
            check_loop(loop, then, settings, reached, total)
        self._loops[loop] = settings
        if len(self._loops) > KEPT:
            del self._loops[min(self._loops)]
        self._worker_states.put_loops(self._rank, self._loops)

    def at(self, loop: int) -> None:
        """Restore the state left for the worker, if it was handed over in loop ``loop``.

        Called before the worker takes a batch of that loop, counted from 0.

        Raises:
            CheckpointError: the state does not fit the worker's objects.
        """
        self._place = loop
        if self._left is None or self._left_in != loop:
            return
        state, tensors = _unpack(self._left)
        self._contents.write_private(state["private"], tensors)
        random_states.restore(state["random"].encode())
        self._left = None
        self._worker_states.discard(self._rank)

    def hand_over(self) -> None:
        """Hand over the state; called before the worker parks and at the end of a loop."""
        if self._left is not None:  # it has not reached the place to restore its state yet
            self._worker_states.put(self._rank, self._left)
            return
        tensors: dict[str, torch.Tensor] = {}
        state = {
            "loop": self._place,
            "private": self._contents.read_private(tensors),
            "random": random_states.capture().decode(),
        }
        tensors[_STATE] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
        self._worker_states.put(self._rank, safetensors.torch.save(tensors))


_STATE = "state"


def private_of(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The private state of a worker in its worker_state, as from ``Contents.read_private``."""
    state, tensors = _unpack(data)
    return state["private"], tensors


def _unpack(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    tensors = safetensors.torch.load(data)
    return json.loads(tensors.pop(_STATE).numpy().tobytes()), tensors
