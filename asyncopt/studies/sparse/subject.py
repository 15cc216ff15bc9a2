"""What every sparse problem has, and every other library that trains on one."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

from asyncopt.studies.dense.plan import UNSHARED
from asyncopt.studies.measures import Measure
from asyncopt.studies.sparse.plan import Plan

SERIAL = "hogwild"  # with one worker all syncs do the same


class Settings(NamedTuple):
    """What all contenders of a problem are given."""

    epochs: int
    lr: float
    seed: int


class Library(ABC):
    """Another library's way to train on a problem.

    Attributes:
        label: in the table.
        module: what has to be installed.
        threaded: whether it can use more than one thread.
    """

    label: str
    module: str
    threaded: bool = True

    @property
    def installed(self) -> bool:
        """Whether it can be measured."""
        return importlib.util.find_spec(self.module) is not None

    def prepare(self, data: Any) -> Any:
        """The problem's data in the form that the library takes; not timed."""
        return data

    @abstractmethod
    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """What the library has learned, from the start; timed."""

    def judged(self, fitted: Any, data: Any) -> Any:
        """What `Subject.score` takes, of what `fit` returned; not timed."""
        return fitted


class Subject(ABC):
    """A model, its data, and how what it has learned is judged.

    Attributes:
        name: what ``--problem`` calls it.
        title: heading of its table.
        about: a sentence or two for the report.
        needs: modules outside of asyncopt's own requirements.
        extra: of asyncopt, that brings them.
        syncs: that its threads can share the model by, the paper's first.
        epochs: passes over the data; `quick_epochs` where time is short.
        lr: learning rate.
        seconds: rough time of an epoch with one worker, for the progress bar.
        measures: what a model is judged by; the last is the main one.
        libraries: other ways to train on it.
    """

    name: str
    title: str
    about: str
    needs: tuple[str, ...] = ("scipy", "sklearn")
    extra: str = "cli"
    syncs: tuple[str, ...]
    epochs: int
    quick_epochs: int
    lr: float
    seconds: float
    measures: tuple[Measure, ...]
    libraries: tuple[Library, ...]

    @abstractmethod
    def load(self, plan: Plan) -> Any:
        """The data, the same for the same seed; smaller where the plan is quick."""

    @abstractmethod
    def fit(self, data: Any, sync: str, workers: int, settings: Settings) -> Any:
        """A model trained by `workers` threads, from the start."""

    @abstractmethod
    def score(self, data: Any, model: Any) -> dict[str, float]:
        """What a model has learned, by names of `Measure`."""

    def settings(self, plan: Plan, repeat: int) -> Settings:
        """What `plan` gives all contenders."""
        epochs = plan.epochs or (self.quick_epochs if plan.quick else self.epochs)
        lr = self.lr if plan.lr is None else plan.lr
        return Settings(epochs, lr, plan.seed + repeat)

    def picked(self, syncs: Iterable[str]) -> tuple[str, ...]:
        """Those of `syncs` that this problem has."""
        wanted = set(syncs)
        return tuple(sync for sync in self.syncs if sync in wanted)


def in_order(syncs: Iterable[str]) -> tuple[str, ...]:
    """An engine's `syncs` as tables have them: the paper's first, the machine's ceiling last."""
    return tuple(sorted(syncs, key=lambda sync: (sync == UNSHARED, sync != SERIAL)))
