"""Everything that ``asyncopt doctor`` finds out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import asyncopt
from asyncopt import _core
from asyncopt._limits import usable_cpus
from asyncopt.gpu import unavailable
from asyncopt.studies.diagnosis.checks import Check, self_checks
from asyncopt.studies.diagnosis.findings import findings
from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.modes import forecasts
from asyncopt.studies.diagnosis.rates import PUSHED, Rates, measure
from asyncopt.studies.diagnosis.task import Task
from asyncopt.studies.diagnosis.troubles import Warn, warnings
from asyncopt.studies.machine import Machine, look
from asyncopt.studies.results import plain


@dataclass(frozen=True)
class Advice:
    """What a training comes to in every mode, and sentences on it."""

    task: Task
    modes: tuple[Forecast, ...]
    findings: tuple[str, ...]

    @classmethod
    def on(cls, task: Task, rates: Rates) -> Advice:
        """From what was measured."""
        modes = forecasts(task, rates)
        return cls(task, modes, tuple(findings(task, modes)))

    def as_json(self) -> dict[str, Any]:
        """By name."""
        return {
            "task": self.task.as_json(),
            "modes": [mode.as_json() for mode in self.modes],
            "findings": list(self.findings),
        }


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``asyncopt doctor`` says.

    `no_cuda`: why the build has no CUDA kernels; None: it has them. `rates` None: the build does
    not work, and nothing was measured. `advice` None: nor that, or nobody asked about a training.
    """

    machine: Machine
    version: str
    isa: str
    isas: tuple[str, ...]
    no_cuda: str | None
    syncs: tuple[str, ...]
    rules: tuple[str, ...]
    checks: tuple[Check, ...]
    warnings: tuple[Warn, ...]
    rates: Rates | None
    advice: Advice | None

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
                "cuda_kernels": self.no_cuda is None,
                "syncs": list(self.syncs),
                "rules": list(self.rules),
            },
            "machine": plain(asdict(self.machine)),
            "checks": [check._asdict() for check in self.checks],
            "warnings": [warning._asdict() for warning in self.warnings],
            "rates": None if self.rates is None else plain(self.rates.as_json()),
            "advice": None if self.advice is None else plain(self.advice.as_json()),
        }


def examine(workers: int | None, task: Task | None) -> Diagnosis:
    """Look, check and measure.

    Args:
        workers: how many are planned, where known.
        task: what they are to train, where that is asked.
    """
    machine = look()
    isas, no_cuda = tuple(_core.isas()), unavailable()
    checks = tuple(self_checks())
    rates = None
    if all(check.passed for check in checks):
        asked = () if task is None else (task.rule,)
        rates = measure(dict.fromkeys((*PUSHED, *asked)), usable_cpus())
    return Diagnosis(
        machine=machine,
        version=asyncopt.__version__,
        isa=_core.isa(),
        isas=isas,
        no_cuda=no_cuda,
        syncs=tuple(asyncopt.syncs()),
        rules=tuple(asyncopt.rules()),
        checks=checks,
        warnings=tuple(warnings(machine, workers, _core.isa(), isas, no_cuda)),
        rates=rates,
        advice=None if task is None or rates is None else Advice.on(task, rates),
    )
