"""The doctor: facts about machine and build, measured rates, and the modes of a training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import asyncopt
from asyncopt._limits import usable_cpus
from asyncopt.report.text import rate_text, size_text
from asyncopt.studies import options
from asyncopt.studies.diagnosis.checks import Build, Check, Warn, self_checks, warnings
from asyncopt.studies.diagnosis.findings import findings, recommendation
from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.modes import forecasts
from asyncopt.studies.diagnosis.plan import (
    Examination,
    Training,
    check_workers,
    parse_devices,
    parse_parameters,
    parse_step,
)
from asyncopt.studies.diagnosis.rates import PUSHED, Rates, cuda_devices, measure
from asyncopt.studies.diagnosis.table import mode_table, rate_table
from asyncopt.studies.driver import run
from asyncopt.studies.errors import OptionError
from asyncopt.studies.machine import Machine
from asyncopt.studies.progress import Display
from asyncopt.studies.result import Result
from asyncopt.studies.rows import Row, plain
from asyncopt.studies.study import Problem, Section, Study

if TYPE_CHECKING:
    from rich.console import Console


class MeasuredRates(Problem):
    """The rates of this machine."""

    name = "rates"
    title = "Copies, pushes to a store, transfers"


class Modes(Problem):
    """The modes of a planned training."""

    name = "modes"

    def __init__(self, training: Training) -> None:
        devices = ", ".join(training.devices) or "this processor"
        self.title = (
            f"Predicted: {rate_text(training.parameters)} parameters, "
            f"{training.compute * 1e3:g} ms a batch, {training.rule}, {training.workers} workers "
            f"on {devices}"
        )


class Doctor(Study[Examination, Problem, Row]):
    """Self-check first; where it passes, rates; where a training is planned, its modes.

    Attributes:
        build: that is installed.
        checks: the outcome of every self-check.
        rates: None: a self-check failed, and nothing was measured.
        training: that is planned; None: none.
    """

    name = "doctor"
    lead = "Machine and build, their weak points, and the modes in which a training can run here."

    def __init__(self, plan: Examination) -> None:
        super().__init__(plan)
        self.build = Build.installed()
        self.training = plan.training(usable_cpus())
        self.checks: tuple[Check, ...] = ()
        self.rates: Rates | None = None

    summary = ""
    seconds = 0.0

    @property
    def problems(self) -> list[Problem]:
        """None, until rates are measured; then these, and the modes of the planned training."""
        if self.rates is None:
            return []
        return [MeasuredRates(), *([] if self.training is None else [Modes(self.training)])]

    @property
    def works(self) -> bool:
        """True if every self-check passed."""
        return all(check.passed for check in self.checks)

    def measure(self, display: Display) -> list[Row]:
        """Rates, then forecasts from them."""
        self.checks = tuple(self_checks())
        if not self.works:
            return []
        asked = () if self.training is None else (self.training.rule,)
        self.rates = measure(dict.fromkeys((*PUSHED, *asked)), usable_cpus())
        modes = () if self.training is None else forecasts(self.training, self.rates)
        return [*self.rates.rows(), *modes]

    def section(self, problem: Problem, rows: Sequence[Row], machine: Machine) -> Section[Row]:
        """The rates, or the modes of the training."""
        modes = [row for row in rows if isinstance(row, Forecast)]
        if self.training is not None and modes:
            advice = recommendation(self.training, modes)
            found = findings(self.training, modes)
            return Section(problem, rows, found, mode_table(modes), recommendation=advice)
        assert self.rates is not None
        return Section(problem, rows, (), rate_table(list(self.rates.rows()), self.rates.threads))


class Diagnosis(Result[Row]):
    """The result of the doctor: facts and warnings above the tables."""

    study: Doctor

    @property
    def works(self) -> bool:
        """True if every self-check passed."""
        return self.study.works

    @property
    def warnings(self) -> list[Warn]:
        """Weak points of machine and build, with remedies."""
        build = self.study.build
        workers = self.study.plan.workers
        return list(warnings(self.machine, workers, build.isa, build.isas, build.no_cuda))

    @property
    def recommendations(self) -> dict[str, str]:
        """The mode for the planned training; without one, the first remedy."""
        if found := super().recommendations:
            return found
        if not self.works:
            return {"machine": "Reinstall asyncopt: a self-check of this build failed."}
        if self.warnings:
            first = self.warnings[0]
            return {"machine": f"{first.remedy} ({first.about}: {first.trouble})."}
        return {
            "machine": "Change nothing. For advice on a training add --parameters and --step-ms."
        }

    @property
    def facts(self) -> dict[str, str]:
        """Facts about machine and build, by name."""
        return dict(fact_lines(self.machine, self.study.build))

    @property
    def remarks(self) -> list[tuple[str, str, str]]:
        """(kind, subject, text) of each failed self-check and each warning, and their sums."""
        checks = self.study.checks
        failed = [check for check in checks if not check.passed]
        return [
            *(("FAILED", check.name, check.detail) for check in failed),
            ("self-check", "", f"{len(checks) - len(failed)} of {len(checks)} passed"),
            *(("warning", each.about, f"{each.trouble}; {each.remedy}") for each in self.warnings),
        ]

    def print(self, console: Console) -> None:
        """Draw facts, self-check, warnings and tables on `console`."""
        from rich.table import Table
        from rich.text import Text

        facts = Table(show_header=False, box=None, pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, text in self.facts.items():
            facts.add_row(name, text)
        console.print(facts, highlight=False)
        console.print()
        styles = {"FAILED": "red", "warning": "yellow"}
        for kind, subject, text in self.remarks:
            colon = ":" if kind == "self-check" else ""
            line = Text(kind + colon, styles.get(kind, "")).append(" ", "default")
            if subject:
                line.append(subject, "bold").append(": ", "default")
            console.print(line.append(text, "default"), highlight=False, soft_wrap=True)
        if not self.warnings:
            console.print("no warnings")
        console.print()
        super().print(console)

    def as_json(self) -> dict[str, Any]:
        """The diagnosis, as ``--json`` prints it."""
        study = self.study
        advice = None
        if study.training is not None and study.rates is not None:
            modes = self.sections[-1]
            advice = {
                "task": plain(study.training),
                "modes": [row.as_json() for row in modes.rows],
                "findings": list(modes.findings),
            }
        return {
            "works": self.works,
            "build": study.build.as_json(),
            "machine": plain(self.machine),
            "checks": plain(study.checks),
            "warnings": plain(self.warnings),
            "rates": None if study.rates is None else plain(study.rates),
            "advice": advice,
        }


def doctor(
    parameters: str | int | None = None,
    step_ms: float | None = None,
    *,
    workers: int | None = None,
    devices: str | Iterable[str] | None = None,
    rule: str = "Adam",
) -> Diagnosis:
    """Look at machine and build, measure, and predict the modes of a training.

    Args:
        parameters: number of parameters of a planned model, or text like ``25M``; with `step_ms`.
        step_ms: milliseconds of a batch forward and backward in one worker, alone.
        workers: their planned number; None: one per device or core.
        devices: one for each worker, like ``"cuda:0,cuda:0,cpu"``; None: in place on the processor.
        rule: name of the optimizer, in any case.

    Returns:
        The result; it prints as facts, warnings and tables.

    Raises:
        OptionError: an option has no meaning; before anything is measured.
    """
    name = options.picked("rule", (rule,), asyncopt.rules())[0]
    options.whole_or_none("workers", workers, 1, options.MOST_WORKERS)
    places: tuple[str, ...] = ()
    if devices is not None:
        places = options.checked("devices", lambda: parse_devices(devices, cuda_devices()))
    options.checked("devices", lambda: check_workers(workers, places))
    if (parameters is None) != (step_ms is None):
        given, missing = ("parameters", "--step-ms")
        if parameters is None:
            given, missing = ("step_ms", "--parameters")
        raise OptionError(given, f"expected {missing} as well")
    size = step = None
    if parameters is not None and step_ms is not None:
        size = options.checked("parameters", lambda: parse_parameters(parameters))
        step = options.checked("step_ms", lambda: parse_step(step_ms))
    plan = Examination(
        parameters=size,
        step_ms=step,
        workers=workers,
        devices=places,
        rule=name,
    )
    return run(Doctor(plan), kind=Diagnosis)


def fact_lines(machine: Machine, build: Build) -> Iterator[tuple[str, str]]:
    """(name, text) of each fact about machine and build."""
    yield "asyncopt", f"{build.version}, from {build.origin}"
    yield "rules", ", ".join(build.rules)
    yield "syncs", ", ".join(build.syncs)
    others = ", ".join(isa for isa in build.isas if isa != build.isa)
    yield "instruction set", f"{build.isa} (also here: {others or 'none'})"
    yield "python", machine.python
    yield "torch", f"{machine.torch}, {machine.torch_threads} threads"
    yield "OMP_NUM_THREADS", machine.omp_num_threads or "not set"
    yield "CUDA", machine.cuda or "none (not needed)"
    yield "CUDA kernels", "in this build" if build.no_cuda is None else "not in this build"
    yield "processor", machine.processor
    quota = "" if machine.cpu_quota is None else f", quota {machine.cpu_quota:g}"
    yield "cores", f"{machine.cores}, usable {machine.usable_cores}{quota}"
    threads = {None: "unknown", True: "yes", False: "no"}[machine.hyperthreads]
    yield "hyperthreads", f"{threads}; NUMA nodes: {machine.numa_nodes}"
    yield "governor", machine.governor or "not visible"
    yield "caches", machine.caches
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
