"""A program that trains with checkpoints, is killed, and resumes when it is started again.

Run by test_checkpoint_resume.py with a description of the run in JSON; it prints the state of the
run in JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import numpy as np
import torch

import asyncopt
from asyncopt.run import Worker, launch, windows
from asyncopt.run.checkpoint import Checkpoints

LAYERS = torch.nn.Sequential


def make(rule: str, sync: str) -> tuple[torch.nn.Module, Any, Any]:
    """A model, optimizer and schedule with state of every kind."""
    torch.manual_seed(0)
    model = LAYERS(
        torch.nn.Linear(6, 9), torch.nn.BatchNorm1d(9), torch.nn.Dropout(0.4), torch.nn.Linear(9, 2)
    )
    optimizer = getattr(asyncopt, rule)(model.parameters(), lr=0.01, sync=sync)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=13, T_mult=2)
    return model, optimizer, scheduler


def train(
    worker: Worker,
    model: torch.nn.Module,
    optimizer: Any,
    scheduler: Any,
    data: torch.Tensor,
    run: dict[str, Any],
) -> int:
    """Random numbers of torch and numpy decide what is learned; the batches that this life took."""
    windows.PATIENCE = 60.0  # no checkpoint within one, however slow the machine is
    torch.manual_seed(7 + worker.rank)
    np.random.seed(7 + worker.rank)  # noqa: NPY002
    steps = 0
    for _ in range(run["rounds"]):
        torch.rand(3)  # as looking at the result between two rounds may need
        for x in worker.batches(data, batch_size=8, epochs=run["epochs"], dispatch=run["dispatch"]):
            noise = torch.from_numpy(np.random.standard_normal(x.shape).astype(np.float32))  # noqa: NPY002
            if steps % run["window"] == 0:
                optimizer.zero_grad()
            (model(x + 0.1 * noise) - x[:, :2]).square().mean().backward()
            steps += 1
            if steps % run["window"] == 0:
                optimizer.step()
                scheduler.step()
            time.sleep(run["nap"])
    return steps


def digest(*objects: Any) -> str:
    """A hash of all tensors and numbers in state dicts."""
    total = hashlib.sha256()
    for obj in objects:
        flat = [obj.state_dict()]
        while flat:
            item = flat.pop(0)
            if isinstance(item, torch.Tensor):
                total.update(item.detach().contiguous().view(-1).numpy().tobytes())
            elif isinstance(item, dict | list | tuple):
                flat += list(item.values()) if isinstance(item, dict) else list(item)
            else:
                total.update(repr(item).encode())
    return total.hexdigest()


def main(run: dict[str, Any]) -> None:
    """One process of the run."""
    parts = make(run["rule"], run["sync"])
    data = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
    checkpoint = Checkpoints(run["path"], every=run["every"]) if run["path"] else None
    done = launch(
        train,
        (*parts, data, run),
        workers=run["workers"],
        max_staleness=run["max_staleness"],
        timeout=120,
        checkpoint=checkpoint,
        resume=checkpoint is not None,
    )
    assert (
        done.ledger.version == done.ledger.pushes
    )  # without the counts that a checkpoint restored
    version = parts[1].store.version
    print(json.dumps([digest(*parts[:2]), version, done.results]), flush=True)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit("interrupted")
