"""The parts of every study: a plan, problems, and sections of rows with tables and findings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from asyncopt.report.table import Table
from asyncopt.studies.errors import require
from asyncopt.studies.rows import Row, plain

if TYPE_CHECKING:  # workers import problems, and need none of these
    from asyncopt.report.page import Picture
    from asyncopt.studies.machine import Machine
    from asyncopt.studies.progress import Display

P = TypeVar("P", bound="Plan")
Q = TypeVar("Q", bound="Problem")
R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Plan:
    """Options of a study, checked; each study has a frozen dataclass of its own."""

    def as_json(self) -> dict[str, Any]:
        """All options by name."""
        options: dict[str, Any] = plain(self)
        return options


class Problem:
    """A problem that a study measures.

    Attributes:
        name: as an option, and in results.
        title: heading of its table.
        about: a sentence or two for the report.
        needs: modules outside of asyncopt's own requirements.
        extra: the extra of asyncopt that brings them.
    """

    name: str
    title: str
    about: str = ""
    needs: tuple[str, ...] = ()
    extra: str = "cli"

    def check(self) -> None:
        """Raise `StudyError` where a module is missing."""
        require(self.needs, f"problem {self.name}", self.extra)


@dataclass(frozen=True)
class Section(Generic[R]):
    """Everything about one problem.

    Attributes:
        problem: that was measured.
        rows: its measurements.
        findings: sentences derived from them.
        table: of the terminal and the report.
        details: a longer table for the report.
        recommendation: what the rows speak for, and why; empty: nothing.
    """

    problem: Problem
    rows: Sequence[R]
    findings: Sequence[str]
    table: Table
    details: Table | None = None
    recommendation: str = ""


class Study(ABC, Generic[P, Q, R]):
    """A plan and how it is carried out; `driver.run` calls the methods in the order given here.

    Attributes:
        name: of the command, and with ``_`` for ``-`` of the function of `asyncopt.studies`. The
            page is the template ``NAME.html``.
        lead: the first sentence of the report.
        schema: raise it when a field of results.json changes its meaning or goes away.
    """

    name: ClassVar[str]
    lead: ClassVar[str]
    schema: ClassVar[int] = 1

    def __init__(self, plan: P) -> None:
        self.plan = plan

    @property
    @abstractmethod
    def problems(self) -> Sequence[Q]:
        """Everything that is measured."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The amount of work in a line, for the user who waits; empty: not worth a line."""

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Rough length of `measure`, for the progress bar."""

    @abstractmethod
    def measure(self, display: Display) -> list[R]:
        """All rows; progress goes to `display`.

        Raises:
            WorkerError, RunTimeout: as ``launch``.
            StudyError: it cannot be measured here, or the numbers are wrong.
        """

    def sections(self, rows: Sequence[R], machine: Machine) -> Iterable[Section[R]]:
        """The rows problem by problem, with their tables and findings."""
        for problem in self.problems:
            own = [row for row in rows if row.problem == problem.name]
            yield self.section(problem, own, machine)

    @abstractmethod
    def section(self, problem: Q, rows: Sequence[R], machine: Machine) -> Section[R]:
        """Table and findings of the rows of one problem."""

    def pictures(self, problem: Q, rows: Sequence[R], machine: Machine) -> Iterable[Picture]:
        """Plots of one problem for the report; imports matplotlib."""
        return ()

    def files(self) -> dict[str, str]:
        """Texts by file name that are written beside the results."""
        return {}
