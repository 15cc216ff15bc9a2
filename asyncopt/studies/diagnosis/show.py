"""A diagnosis for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from asyncopt.report.text import rate_text, size_text
from asyncopt.studies.diagnosis.diagnosis import Advice, Diagnosis
from asyncopt.studies.diagnosis.table import mode_sheet, rate_sheet
from asyncopt.studies.sheets import print_sheet


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Facts, self-check and warnings; what was measured; what was asked about."""
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
    if diagnosis.rates is not None:
        console.print()
        print_sheet(console, "Copies, pushes to a store, transfers", rate_sheet(diagnosis.rates))
    if diagnosis.advice is not None:
        print_advice(console, diagnosis.advice)


def print_advice(console: Console, advice: Advice) -> None:
    """The modes of a training, and sentences on them."""
    task = advice.task
    place = f"on {', '.join(task.devices)}" if task.devices else "on this processor"
    title = (
        f"Predicted: {rate_text(task.parameters)} parameters, {task.compute * 1e3:g} ms a batch, "
    )
    title += f"{task.rule}, {task.workers} workers {place}"
    print_sheet(console, title, mode_sheet(advice.modes))
    for sentence in advice.findings:
        console.print(Padding(Text(sentence), (0, 0, 0, 2)), highlight=False)


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
    yield "CUDA kernels", "in this build" if diagnosis.no_cuda is None else "not in this build"
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
