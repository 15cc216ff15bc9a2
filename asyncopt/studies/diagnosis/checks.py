"""The build, its self-check, and warnings about build and machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

import asyncopt
from asyncopt import _core
from asyncopt._install import command, origin
from asyncopt.gpu import unavailable
from asyncopt.report.text import size_text
from asyncopt.studies.machine import EXTRAS, Machine

FEW_FILES = 1024  # a worker needs a few dozen, each store a few more
LITTLE_MEMORY = 2 * 2**30
ELEMENTS = 1000  # of the self-check: many vector registers and a remainder
STEPS = 3


@dataclass(frozen=True)
class Build:
    """The installed build.

    Attributes:
        origin: where pip got it.
        no_cuda: why it has no CUDA kernels; None: it has them.
    """

    version: str
    origin: str
    isa: str
    isas: tuple[str, ...]
    no_cuda: str | None
    syncs: tuple[str, ...]
    rules: tuple[str, ...]

    @classmethod
    def installed(cls) -> Build:
        """The one that is imported."""
        return cls(
            version=asyncopt.__version__,
            origin=origin(),
            isa=_core.isa(),
            isas=tuple(_core.isas()),
            no_cuda=unavailable(),
            syncs=tuple(asyncopt.syncs()),
            rules=tuple(asyncopt.rules()),
        )

    def as_json(self) -> dict[str, Any]:
        """All fields, by the names of ``--json``."""
        return {
            "asyncopt": self.version,
            "origin": self.origin,
            "isa": self.isa,
            "isas": list(self.isas),
            "cuda_kernels": self.no_cuda is None,
            "syncs": list(self.syncs),
            "rules": list(self.rules),
        }


class Check(NamedTuple):
    """One self-check of the build and its outcome."""

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
    """Empty, or the difference between asyncopt and torch after a few steps."""
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
    """Empty, or the fault after one push by SGD with learning rate 1 and a gradient of -1."""
    parameter = torch.nn.Parameter(torch.zeros(ELEMENTS))
    optimizer = asyncopt.SGD([parameter], lr=1.0, sync=sync)
    optimizer.share_memory(workers=1)
    parameter.grad = torch.full((ELEMENTS,), -1.0)
    optimizer.step()
    optimizer.pull()
    if not torch.equal(parameter.detach(), torch.ones(ELEMENTS)):
        return "the shared parameters differ from the push"
    pushes = optimizer.ledger().pushes
    return "" if pushes == 1 else f"the ledger counts {pushes} pushes instead of 1"


class Warn(NamedTuple):
    """A problem of machine or build, and its remedy."""

    about: str
    trouble: str
    remedy: str


def warnings(
    machine: Machine,
    workers: int | None,
    isa: str,
    isas: tuple[str, ...],
    no_cuda: str | None = None,
) -> Iterator[Warn]:
    """Warnings, the worst first; `no_cuda`: why the build has no CUDA kernels."""
    yield from _about_cores(machine, workers)
    yield from _about_memory(machine)
    yield from _about_speed(machine, isa, isas)
    if machine.cuda is not None and no_cuda is not None:
        why, _, remedy = no_cuda.partition("; ")
        yield Warn("CUDA kernels", f"parameters on a GPU are refused: {why}", remedy)
    missing = [module for module, version in machine.extras.items() if version is None]
    if missing:
        purposes = ", ".join(f"{module} ({EXTRAS[module]})" for module in missing)
        yield Warn("extras", f"not installed: {purposes}", command("cli"))


def _about_cores(machine: Machine, workers: int | None) -> Iterator[Warn]:
    cores = machine.usable_cores
    if workers is not None and workers > cores:
        yield Warn(
            "workers",
            f"{workers} workers on {cores} cores: one that is preempted inside an update makes "
            "the others wait or work on stale parameters",
            f"use at most {cores} workers",
        )
    if machine.cpu_quota is not None and machine.cpu_quota < cores:
        yield Warn(
            "cpu quota",
            f"the control group allows {machine.cpu_quota:g} processors' time on {cores} cores: "
            "workers are stopped for tens of milliseconds when it is used up, locks held or not",
            f"use at most {max(1, int(machine.cpu_quota))} workers, or raise the quota",
        )
    if machine.hyperthreads:
        yield Warn(
            "hyperthreads",
            "two logical processors share one core's vector units",
            f"expect the speed of about {max(1, cores // 2)} workers, not {cores}",
        )
    if machine.numa_nodes > 1:
        yield Warn(
            "memory nodes",
            f"{machine.numa_nodes} NUMA nodes: shared cache lines travel between sockets",
            "keep a run on one node: numactl --cpunodebind=0 --membind=0 ...",
        )
    if machine.busy:
        yield Warn(
            "load",
            f"the machine is busy (load {machine.load:.1f} on {cores} cores)",
            "measure when it is idle",
        )
    if machine.omp_num_threads is None:
        yield Warn(
            "OMP_NUM_THREADS",
            f"not set: processes that you start yourself run torch with {machine.torch_threads} "
            "threads each and compete for the cores (asyncopt.launch divides the cores)",
            "export OMP_NUM_THREADS=1 where every core gets a worker",
        )


def _about_memory(machine: Machine) -> Iterator[Warn]:
    known = [size for size in (machine.memory_available, machine.memory_limit) if size is not None]
    if known and min(known) < LITTLE_MEMORY:
        yield Warn(
            "memory",
            f"{size_text(min(known))} left; a worker process takes about 300 MiB before any data",
            "use fewer workers, or threads (mode='thread')",
        )
    if 0 <= machine.limit_nofile < FEW_FILES:
        yield Warn(
            "open files",
            f"limit {machine.limit_nofile}: every store and worker takes descriptors",
            "ulimit -n 4096",
        )
    if machine.limit_fsize >= 0:
        yield Warn(
            "file size",
            f"limit {size_text(machine.limit_fsize)}: it also limits shared memory",
            "ulimit -f unlimited",
        )


def _about_speed(machine: Machine, isa: str, isas: tuple[str, ...]) -> Iterator[Warn]:
    if isas and isa != isas[-1]:
        yield Warn(
            "instruction set",
            f"{isa} is picked although this processor has {isas[-1]}",
            "unset ASYNCOPT_ISA",
        )
    if isas[-1:] == ("baseline",):
        yield Warn(
            "instruction set",
            "this processor has neither AVX2 nor AVX-512: steps on large tensors are slower",
            "use another machine type if you can",
        )
    if machine.governor not in (None, "performance"):
        yield Warn(
            "frequency governor",
            f"{machine.governor}: the clock follows the load, so short measurements vary",
            "sudo cpupower frequency-set -g performance",
        )
    if machine.shm_huge_pages in ("never", "deny"):
        yield Warn(
            "huge pages",
            f"shared memory gets none (shmem_enabled is {machine.shm_huge_pages}): models of "
            "gigabytes miss the TLB more",
            "echo advise | sudo tee /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        )
