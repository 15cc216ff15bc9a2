"""Networks under each sync: same model, data and schedule, timed at barriers."""

from __future__ import annotations

from asyncopt.store import Ledger
from asyncopt.studies.dense.plan import Comparison, DenseProblem, SyncRow
from asyncopt.studies.options import seed_of, usable_cores
from asyncopt.studies.progress import Meter
from asyncopt.studies.rows import Spread, curve_of, staleness_of
from asyncopt.studies.training.jobs import Job, Recipe, Variant, make_optimizer
from asyncopt.studies.training.measure import Measured, measure
from asyncopt.studies.training.networks import Data, TrainingProblem, evaluate

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


class Network(DenseProblem):
    """A training problem as one of the comparison."""

    takes_turns = True

    def __init__(self, problem: TrainingProblem) -> None:
        self.trained = problem
        self.name, self.title, self.about = problem.name, problem.title, problem.about
        self.needs = problem.needs

    def recipe(self, plan: Comparison) -> Recipe:
        """Settings of the training."""
        rate = plan.lr if plan.lr is not None else RATES.get(plan.rule)
        options = {} if rate is None else {"lr": rate}
        problem = self.trained
        return Recipe(problem.batch_size, problem.passes(plan), plan.rule, options, problem.loss)

    def steps(self, plan: Comparison, workers: int) -> int:
        """One tick per mini-batch; the workers share them."""
        return self.trained.pushes(plan) * len(plan.schedule())

    def cost(self, plan: Comparison, workers: int) -> float:
        """Start-up, training, and the effect of the plan's conditions."""
        conditions, steps = plan.conditions, self.steps(plan, workers)
        work = steps * self.trained.step / min(workers, usable_cores())
        asleep = steps / workers * max(conditions.sleeps(workers))
        return 4.0 + asleep + work * (1 + REPLACING * conditions.kill_rate * workers)

    def measure(self, plan: Comparison, workers: int, meter: Meter) -> list[SyncRow]:
        """All variants and repeats with `workers` workers."""
        split = self.trained.load(plan.seed)
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

    def job(self, plan: Comparison, repeat: int, variant: Variant) -> Job:
        """A new model, the same for every variant of a repeat, and its optimizer."""
        seed, recipe = seed_of(plan.seed, repeat), self.recipe(plan)
        model = self.trained.initial(seed)
        optimizer = None
        if variant.sync is not None:
            optimizer = make_optimizer(recipe.rule, model.parameters(), recipe.options, variant)
        return Job(self.name, seed, model, optimizer, recipe)

    def row(
        self, variant: Variant, workers: int, test: Data, measured: list[Measured], *, killing: bool
    ) -> SyncRow:
        """The repeats of one variant as a row. Loss and accuracy are of the test images."""
        jobs, traces = [each.job for each in measured], [each.trace for each in measured]
        seconds = [trace.seconds for trace in traces]
        rates = [len(trace.points) / trace.seconds for trace in traces]
        elements = sum(p.numel() for p in jobs[0].model.parameters())
        ledger = Ledger.merge([job.optimizer.ledger() for job in jobs if job.optimizer is not None])
        shared = variant.sync is not None
        scores = [evaluate(job.model, test) for job in jobs] if shared else []
        lost = ledger.lost_updates if shared else None
        pushed = sum(len(trace.points) for trace in traces)
        return SyncRow(
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
