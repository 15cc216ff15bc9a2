"""Training problems: same model, data and schedule under every variant, timed at barriers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asyncopt.store import Ledger
from asyncopt.studies.dense.plan import Plan, Variant, make_optimizer, usable_cores
from asyncopt.studies.results import Row, Spread, curve_of, staleness_of
from asyncopt.studies.training.jobs import Data, Job, Recipe
from asyncopt.studies.training.measure import Measured, measure
from asyncopt.studies.training.meter import Meter

TEST_SLICE = 250  # examples
REPLACING = 4.0  # rough seconds from a worker's death to its replacement's first step

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

    train: Data
    test: Data


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
    takes_turns: bool = True

    def recipe(self, plan: Plan) -> Recipe:
        """How `plan` trains this problem."""
        epochs = plan.epochs or (self.quick_epochs if plan.quick else self.epochs)
        rate = plan.lr if plan.lr is not None else self.rates.get(plan.rule)
        options = {} if rate is None else {"lr": rate}
        return Recipe(self.batch_size, epochs, plan.rule, options, nn.functional.cross_entropy)

    def steps(self, plan: Plan, workers: int) -> int:
        """One tick per mini-batch; workers deal them out among themselves."""
        batches = math.ceil(self.examples / self.batch_size)
        return batches * self.recipe(plan).epochs * len(plan.schedule())

    def cost(self, plan: Plan, workers: int) -> float:
        """Start-up, training, and what the plan's conditions add."""
        conditions = plan.conditions
        runs = len(plan.schedule()) * self.recipe(plan).epochs
        work = runs * self.second / min(workers, usable_cores())
        asleep = self.steps(plan, workers) / workers * max(conditions.sleeps(workers))
        return 4.0 + asleep + work * (1 + REPLACING * conditions.kill_rate * workers)

    def measure(self, plan: Plan, workers: int, meter: Meter) -> list[Row]:
        """All variants and repeats with `workers` workers."""
        split = self.load(plan.seed)
        schedule = plan.schedule()
        jobs = [self.job(plan, *entry) for entry in schedule]
        measured = measure(jobs, {self.name: split.train}, workers, plan.conditions, meter)
        return [
            self.row(
                variant,
                workers,
                split.test,
                [each for (_, by), each in zip(schedule, measured, strict=True) if by == variant],
                killing=plan.kill_rate is not None,
            )
            for variant in plan.variants
        ]

    def job(self, plan: Plan, repeat: int, variant: Variant) -> Job:
        """A fresh model, the same for every variant of a repeat, and its optimizer."""
        seed = plan.seed + repeat
        recipe = self.recipe(plan)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.build()
        if variant.sync is None:
            return Job(self.name, seed, model, None, recipe)
        optimizer = make_optimizer(recipe.rule, model.parameters(), recipe.options, variant)
        return Job(self.name, seed, model, optimizer, recipe)

    def row(
        self, variant: Variant, workers: int, test: Data, measured: list[Measured], *, killing: bool
    ) -> Row:
        """The repeats of one variant as one line. Loss and accuracy are of the test images."""
        jobs, traces = [each.job for each in measured], [each.trace for each in measured]
        seconds = [trace.seconds for trace in traces]
        rates = [len(trace.points) / trace.seconds for trace in traces]
        elements = sum(p.numel() for p in jobs[0].model.parameters())
        ledger = Ledger.merge([job.optimizer.ledger() for job in jobs if job.optimizer is not None])
        shared = variant.sync is not None
        scores = [evaluate(job.model, test) for job in jobs] if shared else []
        lost = ledger.lost_updates if shared else None
        pushed = sum(len(trace.points) for trace in traces)
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
            lost_updates=lost,
            lost_share=None if lost is None else lost / (pushed * elements),
            staleness=staleness_of(ledger) if shared else None,
            test_loss=Spread(tuple(loss for loss, _ in scores)) if shared else None,
            test_accuracy=Spread(tuple(right for _, right in scores)) if shared else None,
            curves=tuple(curve_of(trace.points) for trace in traces),
            killed=sum(each.killed for each in measured) if killing else None,
            trained_again=sum(each.again for each in measured),
            repairs=ledger.repairs,
        )


def evaluate(model: nn.Module, test: Data) -> tuple[float, float]:
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
