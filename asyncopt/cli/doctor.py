"""``asyncopt doctor``: does the build work here, and what about the machine will hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

import asyncopt
from asyncopt import _core
from asyncopt.cli.machine import EXTRAS, Machine, look
from asyncopt.cli.results import plain
from asyncopt.report.text import size_text

FEW_FILES = 1024  # a worker needs a few dozen, each store and shared tensor one more
LITTLE_MEMORY = 2 * 2**30
LITTLE_SHM = 256 * 2**20  # containers often have 64 MiB
ELEMENTS = 1000  # of the self-check: many vector registers and a remainder
STEPS = 3


class Warn(NamedTuple):
    """What will hurt, and what to do about it."""

    about: str
    trouble: str
    remedy: str


class Check(NamedTuple):
    """One self-check of the build and how it went."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``asyncopt doctor`` says."""

    machine: Machine
    version: str
    isa: str
    isas: tuple[str, ...]
    syncs: tuple[str, ...]
    rules: tuple[str, ...]
    checks: tuple[Check, ...]
    warnings: tuple[Warn, ...]

    @property
    def works(self) -> bool:
        """Whether every self-check passed."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The diagnosis for ``--json``."""
        return {
            "works": self.works,
            "build": {
                "asyncopt": self.version,
                "isa": self.isa,
                "isas": list(self.isas),
                "syncs": list(self.syncs),
                "rules": list(self.rules),
            },
            "machine": plain(asdict(self.machine)),
            "checks": [check._asdict() for check in self.checks],
            "warnings": [warning._asdict() for warning in self.warnings],
        }


def examine(workers: int | None) -> Diagnosis:
    """Look and check; `workers`: how many are planned, where known."""
    machine = look()
    isas = tuple(_core.isas())
    return Diagnosis(
        machine=machine,
        version=asyncopt.__version__,
        isa=_core.isa(),
        isas=isas,
        syncs=tuple(asyncopt.syncs()),
        rules=tuple(asyncopt.rules()),
        checks=tuple(self_checks()),
        warnings=tuple(warnings(machine, workers, _core.isa(), isas)),
    )


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


def warnings(
    machine: Machine, workers: int | None, isa: str, isas: tuple[str, ...]
) -> Iterator[Warn]:
    """What will hurt, the worst first."""
    yield from _about_cores(machine, workers)
    yield from _about_memory(machine)
    yield from _about_speed(machine, isa, isas)
    missing = [module for module, version in machine.extras.items() if version is None]
    if missing:
        purposes = ", ".join(f"{module} ({EXTRAS[module]})" for module in missing)
        yield Warn("extras", f"not installed: {purposes}", "pip install 'asyncopt[cli]'")


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
            f"{machine.load:.1f} other processes want to run on {cores} cores",
            "wait for them before you measure anything",
        )
    if machine.omp_num_threads is None:
        yield Warn(
            "OMP_NUM_THREADS",
            f"not set: processes that you start yourself run torch with {machine.torch_threads} "
            "threads each and fight for the cores (asyncopt.launch shares them out)",
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
    if machine.shm_free is None or machine.shm_free < LITTLE_SHM:
        yield Warn(
            "/dev/shm",
            f"{size_text(machine.shm_free)} free: torch puts the tensors there that are passed to "
            "workers (asyncopt's own parameters are not there)",
            "docker run --shm-size=1g, or --ipc=host",
        )
    if 0 <= machine.limit_nofile < FEW_FILES:
        yield Warn(
            "open files",
            f"limit {machine.limit_nofile}: every shared tensor and store takes a descriptor",
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


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """The diagnosis for people."""
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in fact_lines(diagnosis):
        facts.add_row(name, text)
    console.print(facts, highlight=False)
    console.print()
    failed = [check for check in diagnosis.checks if not check.passed]
    for check in failed:
        console.print(
            f"[red]FAILED[/] {check.name}: {check.detail}", highlight=False, soft_wrap=True
        )
    passed = len(diagnosis.checks) - len(failed)
    console.print(f"self-check: {passed} of {len(diagnosis.checks)} passed", highlight=False)
    for warning in diagnosis.warnings:
        console.print(
            f"[yellow]warning[/] [bold]{warning.about}[/]: {warning.trouble}; {warning.remedy}",
            highlight=False,
            soft_wrap=True,
        )
    if not diagnosis.warnings:
        console.print("no warnings")


def fact_lines(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """(name, text) of what machine and build offer."""
    machine = diagnosis.machine
    yield "asyncopt", diagnosis.version
    yield "rules", ", ".join(diagnosis.rules)
    yield "syncs", ", ".join(diagnosis.syncs)
    others = ", ".join(isa for isa in diagnosis.isas if isa != diagnosis.isa)
    yield "instruction set", f"{diagnosis.isa} (also here: {others or 'none'})"
    yield "python", machine.python
    yield "torch", f"{machine.torch}, {machine.torch_threads} threads"
    yield "OMP_NUM_THREADS", machine.omp_num_threads or "not set"
    yield "CUDA", machine.cuda or "none (not needed)"
    yield "processor", machine.processor
    quota = "" if machine.cpu_quota is None else f", quota {machine.cpu_quota:g}"
    yield "cores", f"{machine.cores}, usable {machine.usable_cores}{quota}"
    threads = {None: "unknown", True: "yes", False: "no"}[machine.hyperthreads]
    yield "hyperthreads", f"{threads}; NUMA nodes: {machine.numa_nodes}"
    yield "governor", machine.governor or "not visible"
    caches = (("L1d", machine.l1d), ("L2", machine.l2), ("L3", machine.l3))
    yield "caches", ", ".join(f"{level} {size_text(size)}" for level, size in caches)
    limit = "" if machine.memory_limit is None else f", limit {size_text(machine.memory_limit)}"
    available = size_text(machine.memory_available)
    yield "memory", f"{size_text(machine.memory)}, available {available}{limit}"
    yield "/dev/shm", f"{size_text(machine.shm)}, free {size_text(machine.shm_free)}"
    yield "huge pages", f"shared memory: {machine.shm_huge_pages or 'unknown'}"
    files = "unlimited" if machine.limit_nofile < 0 else str(machine.limit_nofile)
    locked, size = size_text(machine.limit_memlock), size_text(machine.limit_fsize)
    yield "limits", f"open files {files}, locked memory {locked}, file size {size}"
    yield "kernel", machine.kernel
    versions = (f"{name} {version or 'missing'}" for name, version in machine.extras.items())
    yield "extras", ", ".join(versions)
