"""What a cross-validation comes to: its folds, their mean and spread, and how to look at them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from asyncopt.run.telemetry.extras import needed
from asyncopt.tasks.cpu import CpuUse
from asyncopt.tasks.fold import Fold
from asyncopt.tasks.fold_files import FoldFiles
from asyncopt.tasks.summary import fold_sheet, sheet_text

__all__ = ["CrossValidation"]


@dataclass(frozen=True)
class CrossValidation:
    """The folds of a cross-validation, and what they cost.

    Attributes:
        folds: in their order.
        seconds: from the call to its return, the start of workers included.
        workers: number of folds that trained at the same time.
        cpu: use of each core meanwhile.
        directory: where the folds and their models are; None: nowhere.
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
        """A line per fold, their mean and spread; drawn by rich where that is installed."""
        return sheet_text(fold_sheet(self))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Scores over epochs, folds over time on their workers, and the use of each core.

        Args:
            path: of the file to write; its suffix says which kind: .svg, .png, .pdf.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        with needed("plot", "matplotlib"):
            from asyncopt.tasks.plots import save
        save(self, path)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Table and plots as one page of HTML.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        with needed("report", "matplotlib"):
            from asyncopt.tasks.plots import page
        Path(path).write_text(page(self), encoding="utf-8")

    def __str__(self) -> str:
        return self.table()
