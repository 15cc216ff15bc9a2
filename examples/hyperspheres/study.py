"""Reduce hyperspheres with 1, 2, 4 ... workers x batch sizes: time, loss, average precision.

    python -m examples.hyperspheres.study --dimensions 128 1024 --workers 1 2 4

Workers are processes or threads on the processor, or with ``--devices`` replicas on GPUs; the code
that trains is the same. Needs the extra ``asyncopt[cli]``, and ``asyncopt[telemetry]`` for
``--log-dir``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import nn

import asyncopt
from asyncopt.report.table import Column, Table, table_of
from asyncopt.report.terminal import print_table
from asyncopt.report.text import NOTHING
from asyncopt.studies.rows import Spread, plain
from examples.hyperspheres import data
from examples.hyperspheres.loss import contrastive_loss
from examples.hyperspheres.models import Reducer
from examples.hyperspheres.retrieval import average_precision
from examples.hyperspheres.training import SCHEDULES, Recipe, make_optimizers, train

MODES = ("process", "thread")
QUICK = {"dimensions": [128], "batch_sizes": [64], "workers": [1, 2], "epochs": 3, "seeds": 2}


class Case(NamedTuple):
    """Training parameters without the seed."""

    dimensions: int
    batch_size: int
    workers: int


class Trained(NamedTuple):
    """One training: seconds per epoch, and of the held-out points loss and average precision."""

    seconds: float
    loss: float
    precision: float
    staleness: float


class Row(NamedTuple):
    """One case over all seeds; `speedup` is against the fewest workers, seed by seed."""

    case: Case
    seconds: Spread
    speedup: Spread
    loss: Spread
    precision: Spread
    staleness: Spread

    def as_json(self) -> dict[str, Any]:
        """By name, with the quartiles and values of what was measured."""
        measured = {
            name: plain(spread) for name, spread in self._asdict().items() if name != "case"
        }
        return {**self.case._asdict(), **measured}


def measure(case: Case, seed: int, options: argparse.Namespace) -> Trained:
    """Make points and a model, train it, and score it on the held-out points."""
    points, held_out = data.make(case.dimensions, seed, options.points)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Reducer(case.dimensions)
    optimizers = make_optimizers(model, options.sync)
    steps = options.epochs * (len(points.y) // case.batch_size)
    schedulers = [SCHEDULES[options.schedule](optimizer, steps) for optimizer in optimizers]
    where: dict[str, Any] = {"mode": options.mode, "threads_per_worker": options.threads}
    if options.devices:
        where["devices"] = dealt(options.devices, case.workers)
    name = f"{case.dimensions}d, batch {case.batch_size}, {case.workers} workers, seed {seed}"
    if options.log_dir is not None:
        where["log_dir"] = options.log_dir / name
    recipe = Recipe(case.batch_size, options.epochs, seed)
    args = (model, optimizers, schedulers, points, recipe)
    run = asyncopt.launch(train, args, workers=case.workers, **where)
    loss, precision = judge(model, held_out)
    trained = Trained(run.elapsed / options.epochs, loss, precision, run.ledger.staleness.mean)
    print(f"{name}: {trained.seconds:.2f} s/epoch, loss {loss:.3f}", file=sys.stderr, flush=True)
    if options.log_dir is not None:
        write_summary(options.log_dir / name, case, seed, options, trained)
    return trained


def dealt(devices: list[str], workers: int) -> list[str]:
    """A device for each worker, in turns."""
    return list(itertools.islice(itertools.cycle(devices), workers))


@torch.no_grad()
def judge(model: nn.Module, points: data.Points) -> tuple[float, float]:
    """Loss and average precision of points, all of them as one batch."""
    model.eval()
    reduced = model(points.x)
    return contrastive_loss(reduced, points.y).item(), average_precision(reduced, points.y)


def write_summary(
    path: Path, case: Case, seed: int, options: argparse.Namespace, trained: Trained
) -> None:
    """Hyperparameters and results, for TensorBoard's HParams page."""
    from torch.utils.tensorboard import SummaryWriter

    how = {name: getattr(options, name) for name in ("sync", "mode", "schedule", "epochs")}
    with SummaryWriter(str(path)) as writer:
        writer.add_hparams(
            {**case._asdict(), "seed": seed, **how},
            {f"result/{name}": value for name, value in trained._asdict().items()},
            run_name=".",
        )


def study(options: argparse.Namespace) -> Iterator[Row]:
    """Every case, in the order of the table; those that are compared run one after the other."""
    workers = sorted(set(options.workers))
    for dimensions, batch_size in itertools.product(options.dimensions, options.batch_sizes):
        cases = [Case(dimensions, batch_size, count) for count in workers]
        trained = [
            [measure(case, seed, options) for case in cases] for seed in range(options.seeds)
        ]
        for place, case in enumerate(cases):
            found = [by_case[place] for by_case in trained]
            faster = [by_case[0].seconds / by_case[place].seconds for by_case in trained]
            seconds, *judged = (Spread(values) for values in zip(*found, strict=True))
            yield Row(case, seconds, Spread(tuple(faster)), *judged)


def plus_minus(spread: Spread, digits: int) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(spread.values):.{digits}f} ± {np.std(spread.values):.{digits}f}"


COLUMNS: list[Column[Row]] = [
    Column("dimensions", "of the points", lambda row: str(row.case.dimensions)),
    Column("batch", "points in a batch of a worker", lambda row: str(row.case.batch_size)),
    Column("workers", "that train at once", lambda row: str(row.case.workers)),
    Column("s/epoch", "median ± half the interquartile range", lambda row: str(row.seconds)),
    Column(
        "speed-up",
        "against the fewest workers, median",
        lambda row: f"{row.speedup.median:.2f}x",
    ),
    Column("loss", "of the held-out points", lambda row: plus_minus(row.loss, 3)),
    Column("average precision", "of the same", lambda row: plus_minus(row.precision, 4)),
    Column(
        "staleness",
        "pushes by others between pull and push, mean",
        lambda row: NOTHING if row.case.workers == 1 else f"{row.staleness.median:.2f}",
    ),
]


def table(rows: list[Row]) -> Table:
    """One table row per row."""
    return table_of(
        COLUMNS,
        rows,
        left=0,
        group=lambda row: (row.case.dimensions, row.case.batch_size),
        aside=lambda row: False,
    )


def untrained(options: argparse.Namespace) -> dict[int, float]:
    """Average precision of the points as they are, by their dimensions."""
    found = {}
    for dimensions in options.dimensions:
        x, y = data.make(dimensions, 0, options.points)[1]
        found[dimensions] = average_precision(nn.functional.normalize(x), y)
    return found


def whole(least: int) -> Any:
    """A type for argparse: a whole number, `least` or more."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, got {text!r}")
        return number

    return parse


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--dimensions", nargs="+", type=whole(data.INTRINSIC + 1), default=[128, 512, 1024])
    add("--batch-sizes", nargs="+", type=whole(2), default=[64, 256])
    add("--workers", nargs="+", type=whole(1), default=[1, 2, 4])
    add("--epochs", type=whole(1), default=10)
    add("--seeds", type=whole(1), default=3, help="trainings of each case")
    add("--points", type=whole(1), default=data.TRAINING, help="of a class, to train on")
    add("--schedule", choices=list(SCHEDULES), default="cosine")
    add("--sync", choices=asyncopt.syncs(), default="hogwild")
    add("--mode", choices=MODES, default="process", help="what a worker is")
    add("--threads", type=whole(1), default=1, help="of torch, in each worker")
    add("--devices", nargs="+", help="like cuda:0 cuda:1; workers get them in turns")
    add("--log-dir", type=Path, help="for TensorBoard, a folder for each training")
    add("--json", action="store_true", help="print the results as JSON instead of a table")
    add("--quick", action="store_true", help="under a minute: other defaults")
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(**QUICK)
        options = parser.parse_args(arguments)
    fewest = data.CLASSES * options.points
    if max(options.batch_sizes) > fewest:
        parser.error(
            f"--batch-sizes: expected at most {fewest}, the points to train on, got "
            f"{max(options.batch_sizes)}; give more --points"
        )
    return options


def main(arguments: list[str] | None = None) -> None:
    """Train every requested case and print the table."""
    options = parse(arguments)
    rows = list(study(options))
    raw = untrained(options)
    if options.json:
        document = {"untrained": raw, "rows": [row.as_json() for row in rows]}
        print(json.dumps(document, indent=1, allow_nan=False))
        return
    title = f"{data.CLASSES} spheres of {data.INTRINSIC} dimensions, {options.epochs} epochs, "
    title += f"{options.sync}, {options.schedule}, {', '.join(options.devices or [options.mode])}"
    console = Console()
    print_table(console, title, table(rows))
    for dimensions, precision in raw.items():
        console.print(
            f"  Without a reduction: average precision {precision:.4f} in {dimensions} dimensions.",
            highlight=False,
        )


if __name__ == "__main__":
    main()
