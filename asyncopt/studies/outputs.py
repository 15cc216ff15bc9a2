"""Writing what a command measured: the folder, results.json and report.html."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import asyncopt
from asyncopt import _core
from asyncopt.studies.errors import StudyError
from asyncopt.studies.machine import Machine
from asyncopt.studies.results import plain

RESULTS = "results.json"
REPORT = "report.html"


def prepare(out: Path) -> None:
    """Make the folder and try it, so that a long run cannot end with nowhere to write.

    Raises StudyError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        trial = out / ".asyncopt-trial"
        trial.write_text("")
        trial.unlink()
    except OSError as failure:
        raise StudyError(
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
    schema: int,
    options: dict[str, Any],
    machine: Machine,
    findings: Mapping[str, Sequence[str]],
    rows: Iterable[dict[str, Any]],
    about: dict[str, str],
    elapsed: float,
) -> dict[str, Any]:
    """Everything measured as one JSON document.

    Args:
        schema: number of the form of `options` and `rows`.
        options: of the command, by name.
        machine: on which it ran.
        findings: sentences by problem.
        rows: what was measured.
        about: see `facts`.
        elapsed: seconds.
    """
    return {
        "schema": schema,
        **about,
        "elapsed_seconds": round(elapsed, 3),
        "options": plain(options),
        "machine": plain(machine.as_json()),
        "findings": plain(dict(findings)),
        "rows": [plain(row) for row in rows],
    }


def write(out: Path, results: dict[str, Any], page: str) -> None:
    """results.json and report.html in `out`; each is whole or absent."""
    write_whole(out / RESULTS, json.dumps(results, indent=1, allow_nan=False))
    write_whole(out / REPORT, page)


def write_whole(path: Path, text: str) -> None:
    """`text` and a line's end at `path`, or nothing."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
