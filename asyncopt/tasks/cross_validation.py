"""``cross_validate``: train and score folds in parallel on one copy of the data."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, TensorDataset

from asyncopt._checks import whole
from asyncopt._version import __version__
from asyncopt.optim import Adam, Optimizer
from asyncopt.run.sources import check_supply
from asyncopt.tasks.cpu import CpuWatch
from asyncopt.tasks.fingerprint import fingerprint
from asyncopt.tasks.fold_files import FoldFiles
from asyncopt.tasks.map import make_plan, run_tasks
from asyncopt.tasks.pool import Ending
from asyncopt.tasks.result import CrossValidation
from asyncopt.tasks.scoring import accuracy
from asyncopt.tasks.splits import Splits, Splitter, find_targets, make_splits
from asyncopt.tasks.training import TRAINING, Fold, Recipe, Trained, train_fold
from asyncopt.warn import warn_caller

__all__ = ["cross_validate"]

SCHEDULES = ("epoch", "batch")


def cross_validate(
    make_model: Callable[[], nn.Module],
    data: tuple[Any, ...] | Dataset[Any],
    folds: int | Splitter | Iterable[tuple[Any, Any]] = 5,
    workers: int | None = None,
    scheduler: Callable[[Any], LRScheduler] | None = None,
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = Adam,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    metrics: Mapping[str, Callable[[Tensor, Tensor], Any]] | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    drop_last: bool = False,
    schedule_by: str = "epoch",
    evaluate_every: int = 1,
    patience: int | None = None,
    groups: Any = None,
    seed: int = 0,
    directory: str | os.PathLike[str] | None = None,
    threads_per_worker: int = 1,
    pin: bool | None = None,
    timeout: float | None = None,
    retries: int = 1,
    start_timeout: float = 300.0,
    preload: Iterable[str] = (),
) -> CrossValidation:
    """Train a fresh model on every fold and score it on the examples held out.

    Folds train side by side in worker processes, one core each, on data that is in memory once. A
    fold's result depends on its number and the arguments alone: it is the same, bit for bit, with
    any number of workers of as many threads, and after a worker died and the fold was run again.

    Each fold has its own process and its own copies of all arguments. Neither other folds nor this
    process see what a fold changes in a loss, a metric, a dataset, a generator, a tensor or a
    global variable. Tensors and arrays are in memory once until a fold writes to them, which copies
    them page by page. Only what lies outside of processes is shared: files, memory maps that are
    open for writing, tensors on GPUs. A process starts in some 20 ms, and imports the modules that
    it needs (of a script, all that stands above ``if __name__ == "__main__":``), unless they are in
    ``preload``.

    The global generators of torch, numpy and Python begin each fold with its own stream of
    ``seed``: ``numpy.random.SeedSequence(seed, spawn_key=(fold,))``. Other seeds and folds have
    other streams.

    Functions and classes may be lambdas, or defined in a notebook. A script must call this under
    ``if __name__ == "__main__":``.

    Args:
        make_model: makes a model; called at the start of the fold's random stream.
        data: a tuple (inputs, targets) of tensors or of numpy arrays, examples along dimension 0,
            or a map-style dataset of such pairs; there may be several inputs, the targets are last.
            Splitters that look at targets find them in a tuple, a ``TensorDataset``, a dataset's
            attribute ``targets``, or a ``Subset`` or ``ConcatDataset`` of such datasets.
            Tensors are moved to shared memory, arrays copied there once, memory maps mapped again.
        folds: number of folds of a shuffled k-fold (the splits of scikit-learn's ``KFold(folds,
            shuffle=True, random_state=seed)``); or a splitter as scikit-learn has them; or pairs of
            index arrays: to train on, and held out.
        workers: number of folds that train at the same time; by default as many as
            :func:`map_tasks` has workers.
        scheduler: called with the optimizer, makes a learning-rate schedule.
        optimizer: called with the model's parameters.
        loss: called with the model's output and the targets, of a batch in training and of all
            examples held out when a fold is scored; a scalar. Weighted means, and means with an
            ``ignore_index``, are therefore over all examples held out.
        metrics: more scores by name, each called with the outputs and targets of all examples held
            out. By default the accuracy, where targets are class numbers. Outputs are computed in
            batches of 256 examples and joined along dimension 0, also inside tuples, lists and
            dicts. A fold's worker holds all of them at once, twice while they are joined, and what
            the loss needs for them: where memory is scarce, let the model return little for each
            example.
        epochs: passes over a fold's training examples, at most.
        batch_size: examples in a batch; their order depends on ``seed``, the fold and the epoch.
        drop_last: leave an epoch's last batch out if it is smaller.
        schedule_by: step the schedule after each "epoch" or each "batch". ``ReduceLROnPlateau``
            is stepped after each scoring, by the loss of the examples held out; its ``patience``
            counts scorings.
        evaluate_every: epochs between two scorings; the last epoch is always scored.
        patience: epochs without a lower loss on the examples held out after which a fold ends; its
            result is then that of the epoch with the lowest. NaN is never the lowest; if all losses
            are NaN or infinite, the result is that of the last epoch. None: train all epochs, and
            score the last. (Scores chosen by the examples that they are scored on are flattering.)
        groups: passed to the splitter, one per example.
        seed: root of the folds' random streams, an integer >= 0; below 2**32 where ``folds`` is a
            number.
        directory: keeps each finished fold and its model. If a call was killed, the same call
            resumes it: it trains only the missing folds. Two calls are the same if all arguments
            that affect the result are equal. Arrays and tensors are compared by every byte, a
            dataset by its code and all that pickle stores of it. Functions and classes are compared
            by their code, defaults, closures and the globals that they refer to, through all
            modules except installed ones. Installed modules, Python, torch and asyncopt are
            compared by version. Not compared: files read at run time, the environment, compiled
            extensions of your own, and code reached by computed names.
        threads_per_worker: torch threads of each worker.
        pin: bind each worker to cores of its own; by default where all cores are used.
        timeout: seconds that one fold may take.
        retries: how often a fold is started again after its worker died.
        start_timeout: seconds within which a worker must be ready.
        preload: names of modules that are imported once for the processes of all folds, as those of
            :func:`asyncopt.launch`. ``torch._dynamo`` is among them if ``optimizer`` is a class of
            torch.optim, or a ``functools.partial`` of one: these import it, which takes each
            process 1.1 s.

    Returns:
        Scores per fold, their mean and standard deviation, wall time and use of the cores. A
        RuntimeWarning names each fold whose loss on the examples held out is NaN.

    Raises:
        TaskError: a fold failed; ``task`` is its place among those that were trained.
        WorkerError, RunTimeout: a worker could not start.
        ImportError: a module of ``preload`` cannot be imported, or starts a thread or CUDA.
        CheckpointError: ``directory`` cannot be read or written.
        RuntimeError: this is a daemonic process, such as a worker of ``multiprocessing.Pool``.
        ValueError: ``directory`` holds folds of another call; the message names what differs.
        TypeError, ValueError: an argument is wrong or, with ``directory``, contains an object that
            cannot be compared with an earlier call (a lock, an open file); nothing was started.
    """
    begin = time.monotonic()
    columns = _columns(data)
    targets = find_targets(data)
    plan = make_plan(workers, threads_per_worker, pin, timeout, start_timeout, seed, preload)
    if _is_of_torch(optimizer):
        plan = replace(plan, preload=(*plan.preload, "torch._dynamo"))
    if plan.seed is None:
        raise TypeError("seed: expected an integer >= 0, got None")
    recipe = Recipe(
        make_model=make_model,
        optimizer=optimizer,
        scheduler=scheduler,
        schedule_by=schedule_by,
        loss=loss,
        metrics=_default_metrics(targets) if metrics is None else _named(metrics),
        epochs=whole("epochs", epochs, 1),
        batch_size=batch_size,
        drop_last=drop_last,
        evaluate_every=whole("evaluate_every", evaluate_every, 1),
        patience=None if patience is None else whole("patience", patience, 1),
        seed=plan.seed,
    )
    _check_functions(recipe)
    _check_sendable(recipe)
    if schedule_by not in SCHEDULES:
        raise ValueError(f"schedule_by: expected 'epoch' or 'batch', got {schedule_by!r}")
    source = check_supply(data, batch_size, None, None).source
    splits = make_splits(folds, source.examples, targets, groups, recipe.seed)
    _check_sizes(splits, recipe)
    watch = CpuWatch()
    with contextlib.ExitStack() as stack:
        files = None
        if directory is not None:
            study = _study(recipe, splits, columns or data, plan.threads)
            files = stack.enter_context(FoldFiles(Path(directory), study))
        done = {} if files is None else files.load()
        todo = [fold for fold in range(len(splits)) if fold not in done]

        def on_end(place: int, ending: Ending) -> None:
            if ending.error is not None:
                raise ending.error
            fold, state = _fold(todo[place], ending, splits, begin)
            _warn_of_nan(fold)
            if files is not None:
                files.save(fold, state)
            done[fold.number] = fold

        shared = (recipe, data, splits, files is not None)
        run_tasks(
            train_fold,
            todo,
            shared,
            plan,
            retries=retries,
            on_end=on_end,
            tick=watch,
            isolated=True,
        )
    return CrossValidation(
        folds=tuple(done[number] for number in range(len(splits))),
        seconds=time.monotonic() - begin,
        workers=plan.workers,
        cpu=watch.use(),
        directory=None if directory is None else Path(directory),
    )


def _fold(
    number: int, ending: Ending, splits: Splits, begin: float
) -> tuple[Fold, dict[str, Tensor]]:
    trained: Trained = ending.value
    scores = trained.epochs[trained.best - 1].scores
    assert scores is not None
    train, test = splits[number]
    fold = Fold(
        number=number,
        scores=scores,
        epochs=tuple(trained.epochs),
        best=trained.best,
        train_examples=len(train),
        test_examples=len(test),
        begin=trained.begin - begin,
        seconds=trained.end - trained.begin,
        worker=ending.worker,
        attempts=ending.attempts,
    )
    return fold, trained.state or {}


def _warn_of_nan(fold: Fold) -> None:
    if not math.isnan(fold.scores["loss"]):
        return
    scored = [epoch.number for epoch in fold.epochs if epoch.scores is not None]
    finite = any(math.isfinite(epoch.scores["loss"]) for epoch in fold.epochs if epoch.scores)
    where = f"of epoch {fold.best}" if finite else f"of all {len(scored)} scored epochs"
    warn_caller(
        f"fold {fold.number}: the loss {where} on the examples held out is NaN; lower the learning "
        "rate, or look for NaN in the data"
    )


def _is_of_torch(optimizer: Any) -> bool:
    """True for a class of torch.optim and for a partial of one."""
    made = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    return (
        isinstance(made, type)
        and issubclass(made, torch.optim.Optimizer)
        and not issubclass(made, Optimizer)
    )


def _columns(data: Any) -> tuple[Any, ...]:
    """Inputs and targets that are in memory; () for a dataset that computes them.

    Raises:
        TypeError: ``data`` cannot be split into folds.
    """
    if isinstance(data, DataLoader):
        raise TypeError(
            "data: expected a tuple (inputs, targets) or a dataset, got a DataLoader, whose order "
            "is its own; pass its dataset"
        )
    columns = data.tensors if type(data) is TensorDataset else data
    if isinstance(columns, tuple):
        if len(columns) < 2:
            raise ValueError(
                f"data: expected inputs and targets, got {len(columns)} of them; "
                f"pass a tuple (inputs, targets)"
            )
        return columns
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data: expected a tuple (inputs, targets) or a dataset, got {type(data).__name__}"
        )
    return ()


def _default_metrics(targets: Any) -> dict[str, Any]:
    """Accuracy if targets are class numbers, else nothing."""
    array = np.asarray([] if targets is None else targets)
    classes = array.ndim == 1 and np.issubdtype(array.dtype, np.integer)
    return {"accuracy": accuracy} if classes else {}


def _named(metrics: Any) -> dict[str, Any]:
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics: expected a dict of functions by name, got {type(metrics).__name__}"
        )
    return dict(metrics)


def _check_functions(recipe: Recipe) -> None:
    if isinstance(recipe.make_model, nn.Module):
        raise TypeError(
            "make_model: expected a function that makes a new model for each fold, got a model, "
            f"{type(recipe.make_model).__name__}; pass its class, or a functools.partial of it"
        )
    functions: dict[str, Any] = {
        "make_model": recipe.make_model,
        "optimizer": recipe.optimizer,
        "loss": recipe.loss,
        **{f"metrics[{name!r}]": metric for name, metric in recipe.metrics.items()},
    }
    if recipe.scheduler is not None:
        functions["scheduler"] = recipe.scheduler
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name}: expected a function, got {type(function).__name__}")


def _check_sizes(splits: Splits, recipe: Recipe) -> None:
    least = min(len(splits[fold].train) for fold in range(len(splits)))
    if recipe.drop_last and least < recipe.batch_size:
        raise ValueError(
            f"batch_size: expected at most {least}, the examples of the smallest fold, with "
            f"drop_last=True, got {recipe.batch_size}"
        )


def _check_sendable(recipe: Recipe) -> None:
    """Raise TypeError for a part of the recipe that cannot be sent to a process."""
    for field in fields(recipe):
        try:
            cloudpickle.dumps(getattr(recipe, field.name))
        except Exception as error:
            raise TypeError(
                f"{field.name}: expected what pickle can send to another process ({error}); "
                f"create such objects inside the function"
            ) from error


def _study(recipe: Recipe, splits: Splits, data: Any, threads: int) -> dict[str, Any]:
    """Everything that determines a fold's result, by name: numbers, strings, else digests.

    Raises:
        TypeError: a part cannot be compared between processes; the message names it.
    """
    study: dict[str, Any] = {
        "training": TRAINING,
        "versions": [platform.python_version(), torch.__version__, __version__],
        "threads_per_worker": threads,
        "folds": splits.fingerprint(),
        "data": fingerprint("data", data),
    }
    for field in fields(recipe):
        part = getattr(recipe, field.name)
        plain = part is None or isinstance(part, bool | int | str)
        study[field.name] = part if plain else fingerprint(field.name, part)
    return study
