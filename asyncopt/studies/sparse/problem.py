"""Plan, problem, contender and row of a comparison on sparse problems."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from asyncopt.studies.options import seed_of
from asyncopt.studies.rows import Measure, Row, Spread
from asyncopt.studies.study import Plan, Problem
from asyncopt.studies.training.jobs import UNSHARED

SERIAL = "hogwild"  # with one worker all syncs do the same


@dataclass(frozen=True)
class SparseComparison(Plan):
    """Options of one comparison. `epochs` and `lr` None: by problem."""

    problems: tuple[str, ...]
    syncs: tuple[str, ...]
    workers: tuple[int, ...]
    repeats: int
    epochs: int | None
    lr: float | None
    seed: int
    quick: bool


class Settings(NamedTuple):
    """Settings of one call of ``fit``, the same for all contenders of a problem."""

    epochs: int
    lr: float
    seed: int

    def estimator(self, sync: str, workers: int) -> dict[str, Any]:
        """Arguments of every estimator of `asyncopt.sparse`: all epochs, by `workers` threads."""
        return {
            "eta0": self.lr,
            "max_iter": self.epochs,
            "tol": None,
            "sync": sync,
            "n_threads": workers,
            "random_state": self.seed,
        }


class Library(ABC):
    """Another library's way to train on a problem.

    Attributes:
        label: in the table.
        module: that has to be installed.
        threaded: whether it can use more than one thread.
    """

    label: str
    module: str
    threaded: bool = True

    @property
    def installed(self) -> bool:
        """True if it can be measured."""
        return importlib.util.find_spec(self.module) is not None

    def prepare(self, data: Any) -> Any:
        """The problem's data in the form that the library takes; not timed."""
        return data

    @abstractmethod
    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """A model that is trained from the start; timed."""

    def judged(self, fitted: Any, data: Any) -> Any:
        """The result of `fit` as `SparseProblem.score` takes it; not timed."""
        return fitted


class SparseProblem(Problem, ABC):
    """A sparse model, its data, and its scores.

    Attributes:
        syncs: ways in which its threads can share the model, the paper's first.
        epochs: passes over the data; `quick_epochs` where time is short.
        lr: learning rate.
        seconds: rough time of an epoch with one worker, for the progress bar.
        measures: scores of a model; the last is the main one.
        libraries: other ways to train on it.
    """

    needs: tuple[str, ...] = ("scipy", "sklearn")
    syncs: tuple[str, ...]
    epochs: int
    quick_epochs: int
    lr: float
    seconds: float
    measures: tuple[Measure, ...]
    libraries: tuple[Library, ...]

    @property
    def main(self) -> Measure:
        """The score that syncs are compared by."""
        return self.measures[-1]

    @abstractmethod
    def load(self, plan: SparseComparison) -> Any:
        """The data, the same for the same seed; smaller where the plan is quick."""

    @abstractmethod
    def fit(self, data: Any, sync: str, workers: int, settings: Settings) -> Any:
        """A model trained by `workers` threads, from the start."""

    @abstractmethod
    def score(self, data: Any, model: Any) -> dict[str, float]:
        """Scores of a model, by names of `Measure`."""

    def settings(self, plan: SparseComparison, repeat: int) -> Settings:
        """The settings of `plan` for all contenders."""
        epochs = plan.epochs or (self.quick_epochs if plan.quick else self.epochs)
        lr = self.lr if plan.lr is None else plan.lr
        return Settings(epochs, lr, seed_of(plan.seed, repeat))

    def picked(self, syncs: Iterable[str]) -> tuple[str, ...]:
        """The syncs among `syncs` that this problem has."""
        wanted = set(syncs)
        return tuple(sync for sync in self.syncs if sync in wanted)


def in_order(syncs: Iterable[str]) -> tuple[str, ...]:
    """An engine's `syncs` as tables have them: the paper's first, the machine's ceiling last."""
    return tuple(sorted(syncs, key=lambda sync: (sync == UNSHARED, sync != SERIAL)))


@dataclass(frozen=True)
class FitRow(Row):
    """One problem, contender and number of workers; every `Spread` is over the repeats.

    `sync` is None for another library. `seconds` is of a whole call of ``fit``; `scores` are by the
    names of the problem's measures; `speedup` is against one worker of the same contender.
    """

    contender: str
    sync: str | None
    workers: int
    epochs: int
    seconds: Spread
    scores: dict[str, Spread]
    speedup: float | None = None


def with_speedups(rows: Sequence[FitRow]) -> list[FitRow]:
    """`rows` with `speedup` filled in where one worker of the same contender was measured."""
    alone = {row.contender: row.seconds.median for row in rows if row.workers == 1}
    return [
        replace(row, speedup=alone[row.contender] / row.seconds.median)
        if row.contender in alone
        else row
        for row in rows
    ]
