"""Three networks x two learning-rate schedules, cross-validated serially and side by side.

    python -m examples.cross_validation.study --out build/study

Serial is the loop without asyncopt: one fold after the other, all cores inside torch.
Side by side is ``asyncopt.cross_validate``: as many folds at once as there are cores, one each.
Both train the same folds from the same seeds. Needs the extra ``asyncopt[cli]``.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler

import asyncopt
from asyncopt.studies.training.networks import Mnist
from asyncopt.tasks import CrossValidation, cross_validate
from examples.cross_validation import cifar10
from examples.cross_validation.models import MODELS

RESTARTS = 2  # of the warm-restart schedule

DATA: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "mnist": lambda: Mnist().load(0).train,
    "cifar10": lambda: cifar10.load().train,
}


class Line(NamedTuple):
    """A network under a schedule, both ways."""

    model: str
    schedule: str
    serial: CrossValidation
    parallel: CrossValidation


def schedules(epochs: int) -> dict[str, Callable[[Any], LRScheduler]]:
    """One half cosine over all epochs, or several shorter ones (Loshchilov and Hutter 2017)."""
    period = max(1, epochs // RESTARTS)
    return {
        "cosine": functools.partial(CosineAnnealingLR, T_max=epochs),
        "warm restarts": functools.partial(CosineAnnealingWarmRestarts, T_0=period),
    }


def measure(
    model: str,
    scheduler: Callable[[Any], LRScheduler],
    data: tuple[Tensor, Tensor],
    options: argparse.Namespace,
    **where: Any,
) -> CrossValidation:
    """One cross-validation."""
    _, channels, size, _ = data[0].shape
    return cross_validate(
        functools.partial(MODELS[model], channels, size),
        data,
        folds=options.folds,
        scheduler=scheduler,
        optimizer=functools.partial(asyncopt.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4),
        epochs=options.epochs,
        **where,
    )


def table(lines: list[Line]) -> str:
    """Accuracy and wall time side by side, in markdown."""
    head = ["network", "schedule", "accuracy, serial", "side by side"]
    head += ["seconds, serial", "side by side", "times faster", "cores busy"]
    rows = [head, [":--", ":--", *["--:"] * (len(head) - 2)]]
    for line in lines:
        accuracies, seconds, busy = [], [], []
        for result in (line.serial, line.parallel):
            accuracies.append(f"{result.mean['accuracy']:.2%} ± {result.std['accuracy']:.2%}")
            seconds.append(f"{result.seconds:.1f}")
            busy.append(f"{result.cpu.mean:.0%}")
        faster = f"{line.serial.seconds / line.parallel.seconds:.2f}"
        rows.append([line.model, line.schedule, *accuracies, *seconds, faster, ", ".join(busy)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def study(options: argparse.Namespace) -> list[Line]:
    """Run every requested combination; one report each in ``options.out``."""
    x, y = DATA[options.data]()
    data = x[: options.examples], y[: options.examples]
    cores = len(os.sched_getaffinity(0))
    lines = []
    for model in options.models:
        for name, scheduler in schedules(options.epochs).items():
            if name not in options.schedules:
                continue
            case = functools.partial(measure, model, scheduler, data, options)
            serial = case(workers=1, threads_per_worker=cores)
            parallel = case()
            lines.append(Line(model, name, serial, parallel))
            for kind, result in (("serial", serial), ("side by side", parallel)):
                print(f"\n{model}, {name}, {kind}\n{result}", flush=True)
                result.report(options.out / f"{model}, {name}, {kind}.html")
    return lines


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = list(schedules(1))
    parser.add_argument("--data", choices=list(DATA), default="mnist")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--schedules", nargs="+", choices=names, default=names)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--examples", type=int, help="train on the first few only")
    parser.add_argument("--out", type=Path, default=Path("build/study"), help="for the reports")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write ``study.md`` with a report for each line of it."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    title = f"{options.data}, {options.folds} folds, {options.epochs} epochs, "
    title += f"{len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"
    text = f"{title}\n\n{table(study(options))}\n"
    (options.out / "study.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
