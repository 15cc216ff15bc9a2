"""Functions of the telemetry tests' workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from asyncopt.run import Worker
from tests.run.jobs import Bias

NAP = 0.01  # s


def nap_and_push(worker: Worker, model: Bias, opt: torch.optim.Optimizer, seconds: float) -> int:
    """Turns of a known length for some time; the pushes made."""
    end = time.monotonic() + seconds
    pushes = 0
    while time.monotonic() < end or pushes <= worker.rank:
        worker.pull()
        opt.zero_grad()
        loss = model()
        time.sleep(NAP)
        loss.backward()
        opt.step()
        worker.log(loss.detach())
        pushes += 1
    return pushes


def die_once(
    worker: Worker, model: Bias, opt: torch.optim.Optimizer, seconds: float, note: Path
) -> int:
    """The same, but the first worker 1 is killed after half of the time; it notes its pushes."""
    if worker.rank == 1 and not note.exists():
        pushes = nap_and_push(worker, model, opt, seconds / 2)
        note.write_text(str(pushes))
        worker.pull()
        os.kill(os.getpid(), signal.SIGKILL)
    return nap_and_push(worker, model, opt, seconds)
