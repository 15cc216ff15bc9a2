"""One measuring command from its start to its files: what `compare` and `staleness` share."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from asyncopt.report.table import Sheet
from asyncopt.studies import machine as machines
from asyncopt.studies import outputs
from asyncopt.studies.sheets import print_sheet


class Session:
    """Where a command writes, on which machine, and since when.

    Args:
        out: folder for results and report; it is made, and tried.

    Attributes:
        progress: where to say what is going on (stderr).
        about: command, date and versions, for results and report.
        machine: as it was before anything was measured.

    Raises:
        StudyError: `out` cannot be written to.
    """

    def __init__(self, out: Path) -> None:
        outputs.prepare(out)
        self.progress = Console(stderr=True)
        self.about = outputs.facts(datetime.now())
        self.machine = machines.look()
        self._out = out
        self._begun = time.perf_counter()

    def announce(self, what: str, seconds: float) -> None:
        """Say what is to be measured and how long that takes, and warn on a busy machine."""
        minutes = max(1, round(seconds / 60))
        self.progress.print(f"{what}: about {minutes} min", highlight=False)
        if self.machine.busy:
            self.progress.print(
                f"warning: {self.machine.load:.1f} other processes want to run on "
                f"{self.machine.usable_cores} cores; the numbers will be noisy",
                highlight=False,
            )

    def document(
        self,
        schema: int,
        options: dict[str, Any],
        findings: Mapping[str, Sequence[str]],
        rows: Iterable[dict[str, Any]],
    ) -> dict[str, Any]:
        """Everything measured as one JSON document."""
        elapsed = time.perf_counter() - self._begun
        return outputs.document(schema, options, self.machine, findings, rows, self.about, elapsed)

    def deliver(
        self,
        results: dict[str, Any],
        page: str,
        tables: Sequence[tuple[str, Sheet, Sequence[str]]],
        *,
        as_json: bool,
    ) -> None:
        """Write both files, and print the JSON or the tables.

        Args:
            results: the document.
            page: the report.
            tables: title, sheet and sentences of each problem.
            as_json: whether to print JSON.
        """
        outputs.write(self._out, results, page)
        if as_json:
            print(json.dumps(results, indent=1, allow_nan=False))
        else:
            # Into a pipe or a file the tables go as wide as they are.
            console = Console() if sys.stdout.isatty() else Console(width=120)
            for title, sheet, sentences in tables:
                print_sheet(console, title, sheet)
                for sentence in sentences:
                    console.print(Padding(Text(sentence), (0, 0, 0, 2)), highlight=False)
                console.print()
        for what, name in (("report", outputs.REPORT), ("numbers", outputs.RESULTS)):
            self.progress.print(f"{what}: {self._out / name}", highlight=False, soft_wrap=True)
