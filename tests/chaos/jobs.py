"""Functions of the chaos tests' workers; spawned processes import this module."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

import torch

import asyncopt
from asyncopt.run import Worker

from .scene import Scene, now, state, wait_for

TARGET = 3.0  # that the parameters are led to


class Weights(torch.nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size))


def descend(
    worker: Worker,
    model: Weights,
    optimizer: torch.optim.Optimizer,
    data: torch.Tensor,
    scene: Scene,
) -> None:
    """Push the gradient of half the squared distance to ``TARGET`` until ``scene.over`` is set."""
    scene.enter(worker.rank)
    weight = model.weight
    weight.grad = torch.empty_like(weight)
    for _ in worker.batches(data, batch_size=1, epochs=10**6, dispatch="dynamic"):
        torch.sub(weight.detach(), TARGET, out=weight.grad)
        optimizer.step()
        scene.push(worker.rank)
        if scene.over:
            return
        time.sleep(0.002)  # so that the replacements, too, get a processor


class Layers(torch.nn.Module):
    """Several tensors whose elements are all equal in every whole version."""

    def __init__(self, layers: int, size: int) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.zeros(size) for _ in range(layers))

    def forward(self) -> torch.Tensor:
        """Half the squared distance to ``TARGET``."""
        return torch.stack([(w - TARGET).square().sum() / 2 for w in self.weights]).sum()

    def is_whole(self) -> bool:
        ends = torch.stack([end for w in self.weights for end in w.detach().aminmax()])
        return bool((ends == ends[0]).all())


def descend_apart(
    worker: Worker,
    model: Layers,
    optimizer: torch.optim.Optimizer,
    data: torch.Tensor,
    scene: Scene,
    torn: torch.Tensor,
) -> None:
    """``descend`` on a replica; ``torn`` counts pulls that were not one whole version."""
    scene.enter(worker.rank)
    for _ in worker.batches(data, batch_size=1, epochs=10**6, dispatch="dynamic"):
        optimizer.zero_grad()
        model().backward()
        torn[worker.rank] += not model.is_whole()
        optimizer.step()
        scene.push(worker.rank)
        if scene.over:
            return


def push_on(worker: Worker, model: Weights, optimizer: torch.optim.Optimizer, scene: Scene) -> None:
    """Push in a tight loop until ``scene.over`` is set."""
    scene.enter(worker.rank)
    worker.barrier()
    model.weight.grad = torch.ones_like(model.weight)
    while not scene.over:
        optimizer.step()
        scene.push(worker.rank)


def pushed_since(scene: Scene, then: float) -> bool:
    return bool(scene.pushed[1] > then)


def stop_the_other(
    worker: Worker,
    model: Weights,
    optimizer: torch.optim.Optimizer,
    scene: Scene,
    times: int,
    seed: int,
) -> list[tuple[float, str]]:
    """Worker 0 stops worker 1 repeatedly, until it was stopped with the lock ``times`` times.

    Returns:
        For each time, the seconds that worker 0 waited and its error message.
    """
    if worker.rank == 1:
        push_on(worker, model, optimizer, scene)
        return []
    scene.enter(worker.rank)
    model.weight.grad = torch.ones_like(model.weight)
    worker.barrier()
    dice = random.Random(seed)
    other = int(scene.process[1])
    timeouts: list[tuple[float, str]] = []
    try:
        for _ in range(100 * times):
            time.sleep(dice.uniform(0, 0.01))
            os.kill(other, signal.SIGSTOP)
            wait_for(lambda: state(other) == "T", 5, "it stops")
            start = time.monotonic()
            try:
                optimizer.step()
            except asyncopt.LockTimeout as error:
                timeouts.append((time.monotonic() - start, str(error)))
            stopped = now()
            os.kill(other, signal.SIGCONT)
            wait_for(partial(pushed_since, scene, stopped), 10, "it goes on")
            optimizer.step()  # its lock is free again
            if len(timeouts) == times:
                break
    finally:
        os.kill(other, signal.SIGCONT)
        scene.over[0] = 1
    return timeouts
