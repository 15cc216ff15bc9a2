"""The result of a cross-validation: folds, mean and spread, as a table, plots and a page."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from asyncopt.report.table import Table, TableRow
from asyncopt.run.telemetry.extras import needed
from asyncopt.tasks.cpu import CpuUse
from asyncopt.tasks.fold_files import FoldFiles
from asyncopt.tasks.training import Fold

__all__ = ["CrossValidation"]


@dataclass(frozen=True, repr=False)
class CrossValidation:
    """The folds of a cross-validation, their scores and the time they took.

    Attributes:
        folds: all folds, in the order of their numbers.
        seconds: time from the call to its return, including the start of workers.
        workers: number of folds that trained at the same time.
        cpu: use of each core during the call.
        directory: the folder with the folds and their models; None: they were not saved.
    """

    folds: tuple[Fold, ...]
    seconds: float
    workers: int
    cpu: CpuUse
    directory: Path | None

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each score over the folds."""
        return {name: float(np.mean(scores)) for name, scores in self._scores().items()}

    @property
    def std(self) -> dict[str, float]:
        """Standard deviation of each score over the folds (n - 1); NaN for a single fold."""
        return {
            name: float(np.std(scores, ddof=1)) if len(scores) > 1 else float("nan")
            for name, scores in self._scores().items()
        }

    def _scores(self) -> dict[str, list[float]]:
        return {name: [fold.scores[name] for fold in self.folds] for name in self.folds[0].scores}

    def state_dict(self, fold: int) -> dict[str, Tensor]:
        """The trained model of a fold, from ``directory``.

        Raises:
            ValueError: there is no directory, or no such fold.
            CheckpointError: it is damaged.
        """
        if self.directory is None:
            raise ValueError(
                "directory: expected one that holds the folds' models, got None; "
                "call cross_validate with directory="
            )
        if not 0 <= fold < len(self.folds):
            raise ValueError(f"fold: expected 0 to {len(self.folds) - 1}, got {fold}")
        return FoldFiles.state(self.directory, fold)

    def table(self) -> str:
        """The table as text: a row per fold, then mean and spread. Drawn by rich if installed."""
        try:
            from asyncopt.report.terminal import drawn_text, print_table
        except ModuleNotFoundError:
            return str(self.rows_and_mean)
        table = self.rows_and_mean
        return drawn_text(lambda to: print_table(to, None, table, break_headings=False))

    @property
    def rows_and_mean(self) -> Table:
        """A row per fold, and one for mean and spread."""
        names = list(self.folds[0].scores)
        rows = [
            TableRow(
                [
                    str(fold.number),
                    *(_score_text(fold.scores[name]) for name in names),
                    f"{fold.best} of {len(fold.epochs)}",
                    f"{fold.seconds:.1f}",
                    "earlier" if math.isnan(fold.begin) else str(fold.worker),
                ],
                aside=False,
                last=fold is self.folds[-1],
            )
            for fold in self.folds
        ]
        mean, std = self.mean, self.std
        spread = [f"{_score_text(mean[name])} ± {_score_text(std[name])}" for name in names]
        rows.append(
            TableRow(["mean", *spread, "", f"{self.seconds:.1f}", ""], aside=False, last=True)
        )
        headings = [
            ("fold", "number of the fold"),
            *((name, "on the examples held out") for name in names),
            ("epoch", "the one whose model was scored, of those trained"),
            ("seconds", "of the fold in its worker; in the last row, of the whole call"),
            ("worker", "rank of the worker that trained it"),
        ]
        return Table(headings, rows, left=1)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Scores over epochs, folds over time on their workers, and the use of each core.

        Args:
            path: the file to write; its suffix selects the format: .svg, .png, .pdf.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        with needed("plot", "matplotlib"):
            from asyncopt.tasks.plots import Drawn, save
        save(Drawn(self.folds, self.workers, self.seconds, self.cpu), path)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Table and plots as one page of HTML.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        with needed("report", "matplotlib"):
            from asyncopt.tasks.plots import Drawn, page
        mean, std = self.mean, self.std
        facts = {name: f"{mean[name]:.4f} ± {std[name]:.4f}" for name in mean}
        facts |= {
            "folds": f"{len(self.folds)} on {self.workers} workers",
            "seconds": f"{self.seconds:.1f}",
            "cores busy": "unknown" if math.isnan(self.cpu.mean) else f"{self.cpu.mean:.0%}",
        }
        drawn = Drawn(self.folds, self.workers, self.seconds, self.cpu)
        Path(path).write_text(page(drawn, facts, self.rows_and_mean), encoding="utf-8")

    def __repr__(self) -> str:
        return self.table()


def _score_text(score: float) -> str:
    """Four decimals below 100, four significant digits from 100."""
    return f"{score:.4f}" if abs(score) < 100 else f"{score:.4g}"
