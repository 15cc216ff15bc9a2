"""One fold of a cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

from asyncopt.tasks.training import Epoch

__all__ = ["Fold"]


@dataclass(frozen=True)
class Fold:
    """One trained and scored fold.

    Attributes:
        number: from 0.
        scores: loss and metrics of the model of epoch ``best`` on all examples held out.
        epochs: all epochs trained, with loss, learning rate and scores over time.
        best: number of the epoch whose model was scored: the last one, or with ``patience`` that
            of the lowest loss on the examples held out (the last one if no loss was finite).
        train_examples: number of examples trained on.
        test_examples: number of examples held out.
        begin: when it began, in seconds since the call; NaN for one that an earlier call trained.
        seconds: of training and scoring, in the worker.
        worker: rank of the worker that trained it; processes of a rank follow each other.
        attempts: how often it was started; more than once where workers died.
    """

    number: int
    scores: dict[str, float]
    epochs: tuple[Epoch, ...]
    best: int
    train_examples: int
    test_examples: int
    begin: float
    seconds: float
    worker: int
    attempts: int
