"""The methods in one process: all replicas in a loop, formulas as the papers have them, float64."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .cases import RANKS, Case, Local, backward, data, flat, model

States = list[Tensor]
"""One for each rank."""


class Replicas:
    """One model a rank, all from the first one's start."""

    def __init__(self, local: Local) -> None:
        self.networks = [model(0) for _ in range(RANKS)]
        self.local = [local(network.parameters()) for network in self.networks]

    def backward(self) -> None:
        for rank, network in enumerate(self.networks):
            backward(network, *data(rank))

    def step(self) -> None:
        for opt in self.local:
            opt.step()

    @property
    def x(self) -> States:
        return [flat(network) for network in self.networks]

    @x.setter
    def x(self, values: States) -> None:
        for network, value in zip(self.networks, values, strict=True):
            torch.nn.utils.vector_to_parameters(value, network.parameters())


def mean(states: States) -> Tensor:
    return torch.stack(states).mean(0)


@functools.cache
def history(case: Case, local: Local, steps: int) -> tuple[list[States], States]:
    """Parameters after every step, and after a final pull."""
    return (local_steps if case.method == "LocalSteps" else elastic)(case, local, steps)


def local_steps(case: Case, local: Local, steps: int) -> tuple[list[States], States]:
    replicas, found = Replicas(local), []
    sent: dict[int, States] = {}
    center = replicas.x[0]
    outer = None if case.outer is None else case.outer([center])

    def arrive(begun: int) -> None:
        s = sent.pop(begun)
        target = mean(s)
        if outer is not None:
            center.grad = center - target
            outer.step()
            target = center
        replicas.x = [target + (x - s_i) for x, s_i in zip(replicas.x, s, strict=True)]

    for t in range(1, steps + 1):
        replicas.backward()
        replicas.step()
        if case.delay and t - case.delay in sent:
            arrive(t - case.delay)
        if t % case.every == 0:
            sent[t] = replicas.x
            if case.delay == 0:
                arrive(t)
        found.append(replicas.x)
    for begun in list(sent):
        arrive(begun)
    if steps % case.every != 0:
        sent[steps] = replicas.x
        arrive(steps)
    return found, replicas.x


def elastic(case: Case, local: Local, steps: int) -> tuple[list[States], States]:
    replicas, found = Replicas(local), []
    sent: dict[int, States] = {}
    alpha = 0.9 / RANKS if case.alpha is None else case.alpha
    center = replicas.x[0]

    def arrive(begun: int) -> None:
        s = sent.pop(begun)
        replicas.x = [x - alpha * (s_i - center) for x, s_i in zip(replicas.x, s, strict=True)]
        center.add_(torch.stack([alpha * (s_i - center) for s_i in s]).sum(0))

    for t in range(steps):
        replicas.backward()  # at the x of before
        if case.delay and t - case.delay in sent:
            arrive(t - case.delay)
        if t % case.every == 0:
            sent[t] = replicas.x
            if case.delay == 0:
                arrive(t)
        replicas.step()
        found.append(replicas.x)
    for begun in list(sent):
        arrive(begun)
    sent[steps] = replicas.x
    arrive(steps)
    return found, [center] * RANKS
