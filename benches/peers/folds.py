"""Ways to train the folds of one cross-validation: ADDRESS CONTENDER.

Each contender is a program that runs a whole cross-validation in its turn and starts the
processes that it needs. Folds, seeds, order of batches and model are the same everywhere, and the
loop too (`train_fold`), except in skorch, which has its own.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import asyncopt
from asyncopt.studies.training.networks import Mnist, lenet
from asyncopt.tasks import cross_validate
from asyncopt.tasks.scoring import accuracy
from asyncopt.tasks.splits import Splits, make_splits
from asyncopt.tasks.training import Recipe, Trained, train_fold
from benches.peers.training import use_core
from benches.peers.turns import Turns

FOLDS = 4  # as many on each of two cores
SEED = 0
LR, MOMENTUM, BATCH = 0.05, 0.9, 64
FEW = 256  # images trained on in each fold where memory is measured


@dataclass(frozen=True)
class Case:
    """Training parameters. `padding`: bytes of images that belong to no fold; see `data`."""

    epochs: int
    padding: int = 0


@dataclass(frozen=True)
class Turn:
    """A contender's answer; seconds of the machine-wide clock.

    `call`: from its turn to the last score. `training`: from the first fold's first batch to the
    last fold's score; None if the contender does not report it.
    """

    call: float
    training: float | None
    images: int
    accuracies: list[float]


def data(case: Case) -> tuple[Tensor, Tensor]:
    """Images, float32 (n, 1, 28, 28), and labels, int64 (n,): 4,000 real ones, then the padding."""
    x, y = Mnist().load(SEED).train
    padding = case.padding // (x[0].numel() * 4)
    if not padding:
        return x.clone(), y.clone()
    return (
        torch.cat([x, torch.zeros(padding, *x.shape[1:])]),
        torch.cat([y, torch.zeros(padding, dtype=torch.int64)]),
    )


def pairs(case: Case) -> Any:
    """Argument of `folds`: a k-fold, or a small part of one where memory is measured."""
    real = len(Mnist().load(SEED).train[0])
    splits = make_splits(FOLDS, real, None, None, SEED)
    folds = [splits[fold] for fold in range(FOLDS)]
    if case.padding:
        return [(train[:FEW].numpy(), test[:FEW].numpy()) for train, test in folds]
    return [(train.numpy(), test.numpy()) for train, test in folds]


def recipe(case: Case) -> Recipe:
    """The recipe for `train_fold` that `cross_validate` derives from `options`."""
    return Recipe(
        scheduler=None, schedule_by="epoch", drop_last=False, patience=None, **options(case)
    )


def options(case: Case) -> dict[str, Any]:
    return {
        "make_model": lenet,
        "optimizer": functools.partial(asyncopt.SGD, lr=LR, momentum=MOMENTUM),
        "loss": cross_entropy,
        "metrics": {"accuracy": accuracy},
        "epochs": case.epochs,
        "batch_size": BATCH,
        "evaluate_every": case.epochs,
        "seed": SEED,
    }


def splits_of(case: Case, examples: int) -> Splits:
    return make_splits(pairs(case), examples, None, None, SEED)


def run_folds(case: Case, folds: Iterable[int], columns: tuple[Any, Any]) -> list[Trained]:
    """Train some folds here."""
    splits = splits_of(case, len(columns[0]))
    return [train_fold(fold, recipe(case), columns, splits, False) for fold in folds]


def summary(trained: list[Trained]) -> list[tuple[float, float, float]]:
    """Begin, end and accuracy of each fold."""
    found = []
    for each in trained:
        scores = each.epochs[-1].scores
        assert scores is not None
        found.append((each.begin, each.end, scores["accuracy"]))
    return found


def turn(case: Case, begin: float, folds: list[tuple[float, float, float]]) -> Turn:
    training = max(end for _, end, _ in folds) - min(first for first, _, _ in folds)
    return finished(case, begin, training, [accuracy for _, _, accuracy in folds])


def finished(case: Case, begin: float, training: float | None, accuracies: list[float]) -> Turn:
    call = time.monotonic() - begin
    images = sum(len(train) for train, _ in pairs(case)) * case.epochs
    return Turn(call, training, images, accuracies)


def with_asyncopt(case: Case) -> Turn:
    """`asyncopt.cross_validate` with as many workers as there are cores."""
    begin = time.monotonic()
    result = cross_validate(data=data(case), folds=pairs(case), **options(case))
    folds = [(f.begin, f.begin + f.seconds, f.scores["accuracy"]) for f in result.folds]
    return turn(case, begin, folds)


def independently(case: Case) -> Turn:
    """One program per core, nothing shared, nothing supervised: the ceiling."""
    begin = time.monotonic()
    processes = len(os.sched_getaffinity(0))
    shares = [json.dumps([case.epochs, case.padding, rank, processes]) for rank in range(processes)]
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "benches.peers.folds", "share", share],
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for share in shares
    ]
    answers = [json.loads(program.communicate()[0]) for program in programs]
    folds: list[Any] = [None] * FOLDS
    for rank, answer in enumerate(answers):
        folds[rank::processes] = [tuple(fold) for fold in answer]
    return turn(case, begin, folds)


def share(epochs: int, padding: int, rank: int, processes: int) -> None:
    """One program of `independently`."""
    use_core(rank)
    case = Case(epochs, padding)
    print(json.dumps(summary(run_folds(case, range(rank, FOLDS, processes), data(case)))))


def serially(case: Case) -> Turn:
    """Fold after fold in this process, all cores inside torch."""
    begin = time.monotonic()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return turn(case, begin, summary(run_folds(case, range(FOLDS), data(case))))


def one_fold(case: Case) -> Turn:
    """A single fold on a single core."""
    begin = time.monotonic()
    torch.set_num_threads(1)
    return turn(case, begin, summary(run_folds(case, range(1), data(case))))


def with_joblib(case: Case) -> Turn:
    """joblib's loky processes, which map numpy arrays of more than 1 MB from a file."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    begin = time.monotonic()
    columns = tuple(column.numpy() for column in data(case))
    workers = len(os.sched_getaffinity(0))
    folds = Parallel(n_jobs=workers)(
        delayed(in_joblib)(case, fold, *columns) for fold in range(FOLDS)
    )
    answer = turn(case, begin, folds)
    get_reusable_executor().shutdown(wait=True)  # each turn starts its own processes, as the others
    return answer


def in_joblib(case: Case, fold: int, x: Any, y: Any) -> tuple[float, float, float]:
    torch.set_num_threads(1)
    return summary(run_folds(case, [fold], (x, y)))[0]


def with_skorch(case: Case) -> Turn:
    """skorch's classifier in scikit-learn's cross_validate, on joblib's processes."""
    import skorch
    from joblib.externals.loky import get_reusable_executor
    from sklearn import model_selection

    begin = time.monotonic()
    torch.manual_seed(SEED)
    network = skorch.NeuralNetClassifier(
        lenet,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__fused=True,
        optimizer__momentum=MOMENTUM,
        lr=LR,
        batch_size=BATCH,
        max_epochs=case.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks="disable",
        verbose=0,
    )
    x, y = (column.numpy() for column in data(case))
    workers = len(os.sched_getaffinity(0))
    scores = model_selection.cross_validate(network, x, y, cv=pairs(case), n_jobs=workers)
    answer = finished(case, begin, None, list(scores["test_score"]))
    get_reusable_executor().shutdown(wait=True)
    return answer


CONTENDERS: dict[str, Callable[[Case], Turn]] = {
    "asyncopt": with_asyncopt,
    "independent": independently,
    "serial": serially,
    "joblib": with_joblib,
    "skorch": with_skorch,
    "one fold": one_fold,
}


def main(address: str, name: str) -> None:
    turns = Turns(address, 0)
    for command in turns:
        epochs, padding = json.loads(command)
        turns.reply(CONTENDERS[name](Case(epochs, padding)))


if __name__ == "__main__":
    if sys.argv[1] == "share":
        share(*json.loads(sys.argv[2]))
    else:
        from benches.peers import folds  # so that what is pickled is found under this name

        folds.main(*sys.argv[1:])
