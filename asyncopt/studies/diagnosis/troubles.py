"""What of a machine or a build will hurt, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from asyncopt.report.text import size_text
from asyncopt.studies.machine import EXTRAS, Machine

FEW_FILES = 1024  # a worker needs a few dozen, each store a few more
LITTLE_MEMORY = 2 * 2**30


class Warn(NamedTuple):
    """What will hurt, and what to do about it."""

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
    """What will hurt, the worst first; `no_cuda`: why the build has no CUDA kernels."""
    yield from _about_cores(machine, workers)
    yield from _about_memory(machine)
    yield from _about_speed(machine, isa, isas)
    if machine.cuda is not None and no_cuda is not None:
        why, _, remedy = no_cuda.partition("; ")
        yield Warn("CUDA kernels", f"parameters on a GPU are refused: {why}", remedy)
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
