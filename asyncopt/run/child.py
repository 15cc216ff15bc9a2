"""Entry point of a worker process, and its watch on the launcher."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from asyncopt.run.entry import run_worker
from asyncopt.run.mailbox import Mailbox
from asyncopt.run.random_states import Stream

__all__ = ["Job", "prepare"]


@dataclass(frozen=True)
class Job:
    """Entry point of a worker process; pickled into it."""

    rank: int
    threads: int
    start_timeout: float
    pipe: Connection[Any, Any]
    mailbox: Mailbox
    stream: Stream

    def __call__(self) -> None:
        """Run the worker from setup to exit."""
        prepare(self.threads)
        run_worker(self.rank, self.pipe, self.mailbox, self.start_timeout, self.stream)


def prepare(threads: int) -> None:
    """Set up a worker process: it ends when its parent does, and uses `threads` torch threads."""
    threading.Thread(target=_die_with_parent, name="asyncopt-parent", daemon=True).start()
    torch.set_num_threads(threads)


def _die_with_parent() -> None:
    """Fallback for PR_SET_PDEATHSIG: exit when the parent's end of the start-up pipe closes."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
