"""The result of a study: rows and findings as text, HTML, JSON, a data frame and a report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from asyncopt.report.page import render, write_whole
from asyncopt.report.text import size_text
from asyncopt.studies.errors import StudyError, require
from asyncopt.studies.machine import Machine
from asyncopt.studies.rows import Row, plain
from asyncopt.studies.study import Section, Study

if TYPE_CHECKING:
    import pandas
    from rich.console import Console

R = TypeVar("R", bound=Row)

PACKAGE = "asyncopt.studies"
RESULTS = "results.json"
REPORT = "report.html"
BUSY = "other programs were running: trust small differences less"


class Result(Generic[R]):
    """Measurements and findings of a study. It prints as its tables, also in notebooks.

    Attributes:
        study: that was run, with its plan.
        machine: as it was before anything was measured.
        about: command, date, versions and instruction set, by name.
        sections: rows, findings and table of each problem.
        elapsed: seconds.
    """

    def __init__(
        self,
        study: Study[Any, Any, R],
        machine: Machine,
        about: dict[str, str],
        sections: tuple[Section[R], ...],
        elapsed: float,
    ) -> None:
        self.study = study
        self.machine = machine
        self.about = about
        self.sections = sections
        self.elapsed = elapsed

    @property
    def rows(self) -> tuple[R, ...]:
        """All measurements, problem by problem."""
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def findings(self) -> dict[str, list[str]]:
        """Sentences derived from the rows, by problem."""
        return {section.problem.name: list(section.findings) for section in self.sections}

    @property
    def recommendations(self) -> dict[str, str]:
        """What the rows speak for and why, by problem; without problems that allow none."""
        found = ((each.problem.name, each.recommendation) for each in self.sections)
        again = " The machine was busy: measure again when it is idle." if self.machine.busy else ""
        return {name: text + again for name, text in found if text}

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a frame: for each spread its median and quartiles (``_q1``, ``_q3``).

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(
                "to_frame: expected the package pandas, got none; pip install pandas",
                name="pandas",
            ) from missing
        return pandas.DataFrame([row.columns() for row in self.rows])

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured, as results.json has it."""
        return {
            "schema": self.study.schema,
            **self.about,
            "elapsed_seconds": round(self.elapsed, 3),
            "options": self.study.plan.as_json(),
            "machine": plain(self.machine),
            "findings": self.findings,
            "recommendations": self.recommendations,
            "rows": [row.as_json() for row in self.rows],
        }

    def json(self) -> str:
        """`as_json` as text."""
        return json.dumps(self.as_json(), indent=1, allow_nan=False)

    def print(self, console: Console) -> None:
        """Draw the tables and findings on `console`, and at the end the recommendations."""
        from asyncopt.report.terminal import print_advice, print_sentences, print_table

        for section in self.sections:
            print_table(console, section.problem.title, section.table)
            print_sentences(console, section.findings)
            console.print()
        print_advice(console, self.recommendations)

    def __repr__(self) -> str:
        return f"<result of {self.study.name}: {len(self.rows)} rows; print it for its tables>"

    def __str__(self) -> str:
        """The tables and findings, without colours."""
        from asyncopt.report.terminal import drawn_text

        return drawn_text(self.print)

    def _repr_html_(self) -> str:
        """The tables and findings, in a notebook."""
        return render("notebook.html", PACKAGE, result=self)

    def html(self) -> str:
        """The report as a page: one file that loads nothing."""
        title = f"asyncopt {self.study.name}"
        context = {"result": self, "study": self.study, "plan": self.study.plan}
        return render(f"{self.study.name}.html", PACKAGE, title=title, **context)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the report to `path`; the file is whole or as it was before.

        Raises:
            StudyError: matplotlib is not installed.
            OSError: it cannot be written.
        """
        require(("matplotlib",), "the report")
        write_whole(Path(path), self.html())

    def write(self, out: Path) -> None:
        """results.json, report.html and the study's own files in the folder `out`."""
        for name, text in self.study.files().items():
            write_whole(out / name, text)
        write_whole(out / RESULTS, self.json())
        self.report(out / REPORT)

    @property
    def header(self) -> dict[str, str]:
        """Date, machine and build, for the head of the report."""
        machine = self.machine
        quota = f", quota {machine.cpu_quota:g}" if machine.cpu_quota else ""
        return {
            "measured": self.about["date"],
            "processor": f"{machine.processor}, {machine.usable_cores} usable cores{quota}",
            "load before": f"{machine.load:.1f}" + (f" ({BUSY})" if machine.busy else ""),
            "caches": machine.caches,
            "memory": size_text(machine.memory),
            "versions": self.about["versions"],
            "instruction set": self.about["isa"],
        }


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
