"""Writing what a comparison found: the folder, results.json and report.html."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import asyncopt
from asyncopt import _core
from asyncopt.cli.failures import CommandError
from asyncopt.cli.findings import findings
from asyncopt.cli.machine import Machine
from asyncopt.cli.plan import Plan
from asyncopt.cli.results import SCHEMA, Row, plain

RESULTS = "results.json"
REPORT = "report.html"


def prepare(out: Path) -> None:
    """Make the folder and try it, so that a long run cannot end with nowhere to write.

    Raises CommandError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        trial = out / ".asyncopt-trial"
        trial.write_text("")
        trial.unlink()
    except OSError as failure:
        raise CommandError(
            f"--out: cannot write to {out} ({failure.strerror or failure}); choose another folder"
        ) from failure


def facts(started: datetime) -> dict[str, str]:
    """Command line, date, versions and instruction set, for the head of the report."""
    program = Path(sys.argv[0]).name
    return {
        "command": shlex.join(["asyncopt" if program == "__main__.py" else program, *sys.argv[1:]]),
        "date": started.astimezone().isoformat(timespec="seconds"),
        "versions": f"asyncopt {asyncopt.__version__}, torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}",
        "isa": f"{_core.isa()} (this processor has {', '.join(_core.isas())})",
    }


def document(
    plan: Plan, machine: Machine, rows: Sequence[Row], about: dict[str, str], elapsed: float
) -> dict[str, Any]:
    """Everything measured as one JSON document; `elapsed` in seconds."""
    found = {
        name: findings([row for row in rows if row.problem == name], machine.usable_cores)
        for name in plan.problems
    }
    return {
        "schema": SCHEMA,
        **about,
        "elapsed_seconds": round(elapsed, 3),
        "options": plain(plan.as_json()),
        "machine": plain(machine.as_json()),
        "findings": found,
        "rows": [plain(row.as_json()) for row in rows],
    }


def write(out: Path, results: dict[str, Any], page: str) -> None:
    """results.json and report.html in `out`; each is whole or absent."""
    for name, text in ((RESULTS, json.dumps(results, indent=1, allow_nan=False)), (REPORT, page)):
        part = out / f".{name}.part"
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(out / name)
