"""Runs a study: checks, announces, measures, derives findings, writes."""

from __future__ import annotations

import os
import shlex
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, overload

import torch

import asyncopt
from asyncopt import _core
from asyncopt.studies import machine as machines
from asyncopt.studies.errors import require
from asyncopt.studies.progress import Display
from asyncopt.studies.result import Result, prepare
from asyncopt.studies.rows import Row
from asyncopt.studies.study import Study

R = TypeVar("R", bound=Row)
ResultT = TypeVar("ResultT", bound=Result[Any])

Out = str | os.PathLike[str] | None
PROGRAMS = (("asyncopt",), ("asyncopt", "__main__.py"))  # ends of the command's argv[0]


@overload
def run(study: Study[Any, Any, R], *, out: Out = None, progress: bool = True) -> Result[R]: ...


@overload
def run(
    study: Study[Any, Any, Any], *, out: Out = None, progress: bool = True, kind: type[ResultT]
) -> ResultT: ...


def run(
    study: Study[Any, Any, Any],
    *,
    out: Out = None,
    progress: bool = True,
    kind: type[Result[Any]] = Result,
) -> Result[Any]:
    """Run `study`.

    Args:
        study: with its plan.
        out: folder for results.json and report.html; None: nothing is written.
        progress: whether to show progress on stderr.
        kind: class of the result.

    Raises:
        StudyError: a module is missing, `out` cannot be written to, or it cannot be measured here.
        WorkerError, RunTimeout: as ``launch``.
    """
    for problem in study.problems:
        problem.check()
    require(("rich",), "a study")
    if out is not None:
        require(("matplotlib",), "the report")
        prepare(Path(out))
    about = facts(study, datetime.now())
    machine = machines.look()
    begun = time.perf_counter()
    display = Display(study.seconds, quiet=not progress)
    if study.summary:
        announce(study, machine, display)
    rows = study.measure(display)
    sections = tuple(study.sections(rows, machine))
    result = kind(study, machine, about, sections, time.perf_counter() - begun)
    if out is not None:
        result.write(Path(out))
    return result


def announce(study: Study[Any, Any, Any], machine: machines.Machine, display: Display) -> None:
    """Show the amount of work and its rough length; warn on a busy machine."""
    minutes = max(1, round(study.seconds / 60))
    display.say(f"{study.summary}: about {minutes} min")
    if machine.busy:
        display.say(
            f"warning: the machine is busy (load {machine.load:.1f} on {machine.usable_cores} "
            "cores); the numbers will be noisy"
        )


def facts(study: Study[Any, Any, Any], started: datetime) -> dict[str, str]:
    """Command or call, date, versions and instruction set, for results and report."""
    program = Path(sys.argv[0]).parts
    if any(program[-len(known) :] == known for known in PROGRAMS):
        command = shlex.join(["asyncopt", *sys.argv[1:]])
    else:
        options = (f"{name}={value!r}" for name, value in vars(study.plan).items())
        command = f"asyncopt.studies.{study.name.replace('-', '_')}({', '.join(options)})"
    return {
        "command": command,
        "date": started.astimezone().isoformat(timespec="seconds"),
        "versions": f"asyncopt {asyncopt.__version__}, torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}",
        "isa": f"{_core.isa()} (this processor has {', '.join(_core.isas())})",
    }
