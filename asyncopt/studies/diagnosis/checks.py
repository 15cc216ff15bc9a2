"""Whether the build works here: every rule beside torch's, every sync through shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

import asyncopt

ELEMENTS = 1000  # of the self-check: many vector registers and a remainder
STEPS = 3


class Check(NamedTuple):
    """One self-check of the build and how it went."""

    name: str
    passed: bool
    detail: str


def self_checks() -> Iterator[Check]:
    """A few steps of every rule beside torch's, and a push through shared memory per sync."""
    for rule in asyncopt.rules():
        yield _checked(f"{rule} steps like torch.optim.{rule}", partial(_like_torch, rule))
    for sync in asyncopt.syncs():
        yield _checked(f"{sync} pushes through shared memory", partial(_pushes, sync))


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        trouble = check()
    except Exception as failure:
        trouble = f"{type(failure).__name__}: {failure}"
    return Check(name, not trouble, trouble)


def _like_torch(rule: str) -> str:
    """Empty, or how far apart asyncopt and torch are after a few steps."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(ELEMENTS, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        getattr(asyncopt, rule)([ours], lr=0.01),
        getattr(torch.optim, rule)([theirs], lr=0.01),
    )
    for _ in range(STEPS):
        gradient = torch.randn(ELEMENTS, generator=generator)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    if torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7):
        return ""
    return f"differs from torch by up to {(ours - theirs).abs().max().item():.3g}"


def _pushes(sync: str) -> str:
    """Empty, or what is wrong after one push by SGD with learning rate 1 and a gradient of -1."""
    parameter = torch.nn.Parameter(torch.zeros(ELEMENTS))
    optimizer = asyncopt.SGD([parameter], lr=1.0, sync=sync)
    optimizer.share_memory(workers=1)
    parameter.grad = torch.full((ELEMENTS,), -1.0)
    optimizer.step()
    optimizer.pull()
    if not torch.equal(parameter.detach(), torch.ones(ELEMENTS)):
        return "the shared parameters are not what was pushed"
    pushes = optimizer.ledger().pushes
    return "" if pushes == 1 else f"the ledger counts {pushes} pushes instead of 1"
