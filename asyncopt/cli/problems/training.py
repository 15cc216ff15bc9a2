"""Training problems: same model, data and schedule under every variant, timed at barriers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asyncopt.cli.plan import UNSHARED, Plan, Variant, make_optimizer, usable_cores
from asyncopt.cli.problems.base import Meter, Ticker
from asyncopt.cli.results import Row, Spread, curve_of, staleness_of
from asyncopt.optim import Optimizer
from asyncopt.run import Worker, launch
from asyncopt.store import Ledger

PATIENCE = 600.0  # seconds a worker waits at a barrier for the slowest one
WARM_UP_BATCHES = 3
TEST_SLICE = 250  # examples

# Learning rates that train both networks well in a few epochs; other rules keep torch's default.
RATES = {
    "SGD": 0.1,
    "Adam": 2e-3,
    "AdamW": 2e-3,
    "Adagrad": 2e-2,
    "Adadelta": 1.0,
    "RMSprop": 1e-3,
    "ASGD": 0.1,
}


class Split(NamedTuple):
    """train and test: (x, y) with x float32 (n, ...) and y int64 (n,)."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Job(NamedTuple):
    """One measured run with its own model; no `optimizer`: each worker trains a private copy."""

    repeat: int
    variant: Variant
    model: nn.Module
    optimizer: Optimizer | None


class Recipe(NamedTuple):
    """How every worker trains every job."""

    batch_size: int
    epochs: int
    seed: int
    rule: str
    options: dict[str, Any]


class Trace(NamedTuple):
    """One worker's run of one job, in seconds of the machine-wide monotonic clock."""

    start: float
    finish: float
    points: list[tuple[float, float]]  # (when, loss of that mini-batch)


def train(
    worker: Worker,
    jobs: list[tuple[Any, ...]],
    data: tuple[Tensor, Tensor],
    recipe: Recipe,
    counts: Tensor,
) -> list[Trace]:
    """Runs in every worker: all jobs (`Job` as plain tuples) in turn, each between two barriers."""
    ticker = Ticker(counts, worker.rank)
    mine = [Job(*job) for job in jobs]
    warm_up(mine[0].model, data, recipe)
    return [train_one(worker, job, data, recipe, ticker) for job in mine]


def train_one(
    worker: Worker,
    job: Job,
    data: tuple[Tensor, Tensor],
    recipe: Recipe,
    ticker: Ticker,
) -> Trace:
    """One job in one worker, timed from the barrier before to its own end."""
    model, optimizer = job.model, job.optimizer
    if optimizer is None:
        model = copy.deepcopy(model)
        optimizer = make_optimizer(recipe.rule, model.parameters(), recipe.options, job.variant)
    moments: list[float] = []
    losses: list[Tensor] = []
    worker.barrier(timeout=PATIENCE)
    start = time.perf_counter()
    for x, y in worker.batches(
        data, batch_size=recipe.batch_size, epochs=recipe.epochs, seed=recipe.seed + job.repeat
    ):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        moments.append(time.perf_counter())
        losses.append(loss.detach())
        ticker.tick()
    finish = time.perf_counter()
    worker.barrier(timeout=PATIENCE)
    points = zip(moments, (loss.item() for loss in losses), strict=True)
    return Trace(start, finish, list(points))


def warm_up(model: nn.Module, data: tuple[Tensor, Tensor], recipe: Recipe) -> None:
    """Train a private copy a little before anything is timed.

    Torch makes kernels and threads on first use, and imports more than a second's worth of modules
    at the first ``zero_grad``.
    """
    model = copy.deepcopy(model)
    alone = Variant(UNSHARED, None, False)
    optimizer = make_optimizer(recipe.rule, model.parameters(), recipe.options, alone)
    x, y = data[0][: recipe.batch_size], data[1][: recipe.batch_size]
    for _ in range(WARM_UP_BATCHES):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


@dataclass(frozen=True)
class TrainingProblem:
    """A network, its data and the settings it is trained with.

    `second` is the rough time of one epoch with one worker, for the progress bar.
    """

    name: str
    title: str
    about: str
    needs: tuple[str, ...]
    load: Callable[[int], Split]
    build: Callable[[], nn.Module]
    batch_size: int
    epochs: int
    quick_epochs: int
    examples: int
    second: float
    rates: dict[str, float] = field(default_factory=lambda: RATES)

    def recipe(self, plan: Plan) -> Recipe:
        """How `plan` trains this problem."""
        epochs = plan.epochs or (self.quick_epochs if plan.quick else self.epochs)
        rate = plan.lr if plan.lr is not None else self.rates.get(plan.rule)
        options = {} if rate is None else {"lr": rate}
        return Recipe(self.batch_size, epochs, plan.seed, plan.rule, options)

    def steps(self, plan: Plan, workers: int) -> int:
        """One tick per mini-batch; workers deal them out among themselves."""
        batches = math.ceil(self.examples / self.batch_size)
        return batches * self.recipe(plan).epochs * len(plan.schedule())

    def cost(self, plan: Plan, workers: int) -> float:
        """Start-up and training."""
        runs = len(plan.schedule()) * self.recipe(plan).epochs
        return 4.0 + runs * self.second / min(workers, usable_cores())

    def measure(self, plan: Plan, workers: int, meter: Meter) -> list[Row]:
        """All variants and repeats with `workers` workers."""
        split = self.load(plan.seed)
        recipe = self.recipe(plan)
        jobs = [self.job(plan, recipe, *entry) for entry in plan.schedule()]
        run = launch(
            train,
            # Threads get copies of models in plain containers only.
            args=([tuple(job) for job in jobs], split.train, recipe, meter.counts),
            workers=workers,
            mode=plan.mode,
            threads_per_worker=1,
        )
        traces = list(zip(*run.results, strict=True))
        measured = list(zip(jobs, traces, strict=True))
        return [
            self.row(variant, workers, split, [m for m in measured if m[0].variant == variant])
            for variant in plan.variants
        ]

    def job(self, plan: Plan, recipe: Recipe, repeat: int, variant: Variant) -> Job:
        """A fresh model, the same for every variant of a repeat, and its optimizer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed + repeat)
            model = self.build()
        if variant.sync is None:
            return Job(repeat, variant, model, None)
        optimizer = make_optimizer(recipe.rule, model.parameters(), recipe.options, variant)
        return Job(repeat, variant, model, optimizer)

    def row(
        self,
        variant: Variant,
        workers: int,
        split: Split,
        measured: list[tuple[Job, tuple[Trace, ...]]],
    ) -> Row:
        """The repeats of one variant as one line. Loss and accuracy are of the test images."""
        seconds, rates, curves = [], [], []
        for _, traces in measured:
            start = min(trace.start for trace in traces)
            elapsed = max(trace.finish for trace in traces) - start
            points = [(when - start, loss) for trace in traces for when, loss in trace.points]
            seconds.append(elapsed)
            rates.append(len(points) / elapsed)
            curves.append(curve_of(points))
        elements = sum(p.numel() for p in measured[0][0].model.parameters())
        ledger = Ledger.merge(
            [job.optimizer.ledger() for job, _ in measured if job.optimizer is not None]
        )
        shared = variant.sync is not None
        scores = [evaluate(job.model, split.test) for job, _ in measured] if shared else []
        counted = shared and (variant.audit or variant.sync != "hogwild")
        pushed = sum(len(trace.points) for _, traces in measured for trace in traces)
        return Row(
            problem=self.name,
            case="",
            case_bytes=elements * 4,
            variant=variant.label,
            sync=variant.sync,
            audit=variant.audit,
            workers=workers,
            seconds=Spread(tuple(seconds)),
            updates_per_second=Spread(tuple(rates)),
            element_updates_per_second=Spread(tuple(rate * elements for rate in rates)),
            pushes=pushed,
            lock_wait_share=ledger.lock_wait_seconds / (workers * sum(seconds)),
            lock_waits=ledger.lock_waits,
            retries=ledger.retries,
            skipped_nonfinite=ledger.skipped_nonfinite,
            lost_updates=ledger.lost_updates if counted else None,
            lost_share=ledger.lost_updates / (pushed * elements) if counted else None,
            staleness=staleness_of(ledger) if shared else None,
            test_loss=Spread(tuple(loss for loss, _ in scores)) if shared else None,
            test_accuracy=Spread(tuple(right for _, right in scores)) if shared else None,
            curves=tuple(curves),
        )


def evaluate(model: nn.Module, test: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """(mean cross entropy, share of right answers) on `test`.

    In slices whose activations stay in the cache, which is several times faster than all at once.
    """
    x, y = test
    model.eval()
    with torch.inference_mode():
        scores = torch.cat([model(part) for part in x.split(TEST_SLICE)])
        loss = nn.functional.cross_entropy(scores, y)
        return float(loss), float((scores.argmax(dim=1) == y).float().mean())


def seeded_split(x: Tensor, y: Tensor, train: int, seed: int) -> Split:
    """`train` random examples for training, the rest for testing; the same for the same seed."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, rest = order[:train], order[train:]
    return Split((x[first], y[first]), (x[rest], y[rest]))
