"""Contention microbenchmark: workers push ready-made gradients as fast as they can.

Nothing is computed between two pushes, so this is the worst case of sharing. Every increment is a
power of two and the sums stay below 2**24 of it: float32 adds them exactly, and the final values
give the exact number of element updates that were lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asyncopt.optim import Optimizer
from asyncopt.optim.kernels import syncs
from asyncopt.report.text import size_text
from asyncopt.run import Worker, launch
from asyncopt.store import Ledger
from asyncopt.studies import machine
from asyncopt.studies.dense.plan import Comparison, DenseProblem, SyncRow
from asyncopt.studies.errors import StudyError
from asyncopt.studies.options import seed_of
from asyncopt.studies.progress import Meter, Ticker
from asyncopt.studies.rows import Spread, staleness_of
from asyncopt.studies.training.jobs import Variant, make_optimizer

PATIENCE = 600.0  # seconds at a barrier
INCREMENT = 2.0**-6
LINE = 16  # float32 per cache line
TABLE_ROWS = 65_536  # of one cache line each: 4 MiB
ROWS_PER_PUSH = 32
ROW_SETS = 64  # ready-made sets of rows per worker
FEWEST_PUSHES = 2  # per measurement, however long one takes
LARGEST = 128 * 2**20  # bytes; more would only take longer
USUAL_L3 = 32 * 2**20  # where the kernel hides it


class Case(NamedTuple):
    """Shape of the shared parameter and pattern of its gradients: dense, skewed or uniform rows.

    `compute`: seconds that a worker computes between two pushes.
    """

    name: str
    pattern: str
    shape: tuple[int, ...]
    compute: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of the parameter."""
        return 4 * int(torch.Size(self.shape).numel())

    @property
    def pushed(self) -> int:
        """Element updates in one push."""
        return self.size // 4 if self.pattern == "dense" else ROWS_PER_PUSH * self.shape[1]


class Job(NamedTuple):
    """One case under one variant; `optimizer` None: a private one in each worker."""

    case: Case
    variant: Variant
    optimizer: Optimizer | None


class Sample(NamedTuple):
    """One worker's share of one measurement; `ledger` (rank 0 only) is of all workers."""

    job: int
    pushes: int
    seconds: float
    ledger: Ledger | None


class Report(NamedTuple):
    """Result of a worker: its samples, and all its pushes per job, untimed ones included."""

    samples: list[Sample]
    pushes: list[int]


@lru_cache(maxsize=1)  # memory that is free changes, the cases of one comparison must not
def cases(plan: Comparison) -> tuple[Case, ...]:
    """Dense vectors of growing size, and two ways of drawing rows from one table.

    From one cache line to beyond the last-level cache, or to what memory allows; a quick plan
    stays within the cache, because large vectors take long to set up.
    """
    beyond = min(LARGEST, int(1.5 * (machine.cache_size(3) or USUAL_L3)))
    # A vector for each variant; per worker a gradient, two replicas and a version of leashed.
    copies = len(plan.variants) + 4 * max(plan.workers)
    beyond = min(beyond, machine.available_memory() // (2 * copies))
    sizes = {64, 256 * 2**10, 4 * 2**20} | (set() if plan.quick else {4096, beyond})
    dense = tuple(dense_case(size) for size in sorted(sizes) if size <= beyond)
    return dense + (ROW_CASES[:1] if plan.quick else ROW_CASES)


def dense_case(size: int) -> Case:
    """A vector of `size` bytes, whole cache lines, all of it in every push."""
    return Case(f"dense {size_text(size)}", "dense", (size // 64 * LINE,))


ROW_CASES = tuple(
    Case(f"rows, {pattern}", pattern, (TABLE_ROWS, LINE)) for pattern in ("skewed", "uniform")
)


def hammer(
    worker: Worker,
    jobs: list[tuple[Any, ...]],
    order: list[int],
    seconds: float,
    seed: int,
    counts: Tensor,
) -> Report:
    """Runs in every worker: the measurements in `order`, each between two barriers.

    Args:
        worker: this worker.
        jobs: all cases under all variants, each a `Job` as a plain tuple.
        order: indices into `jobs`, in the order in which they are measured.
        seconds: length of one measurement.
        seed: of the rows that are drawn; each worker draws its own.
        counts: of the `Meter`.
    """
    ticker = Ticker(counts, worker.rank)
    samples: list[Sample] = []
    pushes = [0] * len(jobs)
    for index in order:
        job = Job(*jobs[index])
        parameter, push, optimizer = pusher(job, seed_of(seed, worker.rank))
        push()  # touches every page and builds what the first push builds
        worker.barrier(timeout=PATIENCE)
        first = worker.rank == 0
        before = optimizer.ledger() if first else None
        worker.barrier(timeout=PATIENCE)
        done, elapsed = spin(push, seconds, job.case.compute)
        worker.barrier(timeout=PATIENCE)
        ledger = None if before is None else optimizer.ledger().since(before)
        samples.append(Sample(index, done, elapsed, ledger))
        pushes[index] += done + 1
        parameter.grad = None  # as large as the parameter
        ticker.tick()
    return Report(samples, pushes)


def pusher(job: Job, seed: int) -> tuple[torch.nn.Parameter, Callable[[], object], Optimizer]:
    """Parameter, push function and optimizer of a job.

    The function makes one push of ready-made increments to the parameter through the optimizer.
    """
    optimizer = job.optimizer or contender(job.case, job.variant)
    parameter = only_parameter(optimizer)
    if job.case.pattern == "dense":
        parameter.grad = torch.full_like(parameter, -INCREMENT)
        return parameter, optimizer.step, optimizer
    sets = draw_rows(job.case, seed)
    values = torch.full((ROWS_PER_PUSH, job.case.shape[1]), -INCREMENT)
    turn = 0

    def push_rows() -> None:
        nonlocal turn
        turn = (turn + 1) % len(sets)
        optimizer.step_rows(parameter, sets[turn], values)

    return parameter, push_rows, optimizer


@lru_cache(maxsize=1024)  # a worker draws them once, not for every measurement
def draw_rows(case: Case, seed: int) -> tuple[Tensor, ...]:
    """Sets of distinct rows, int64 (ROWS_PER_PUSH,).

    Skewed: row r is drawn with weight 1 / (r + 1), the law of words and clicks, so that most sets
    share their hot rows.
    """
    rows = case.shape[0]
    skewed = case.pattern == "skewed"
    weights = 1.0 / torch.arange(1, rows + 1) if skewed else torch.ones(rows)
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.multinomial(weights, ROWS_PER_PUSH, generator=generator) for _ in range(ROW_SETS)
    )


def spin(push: Callable[[], object], seconds: float, compute: float) -> tuple[int, float]:
    """Push for `seconds`, at least `FEWEST_PUSHES` times; (pushes, seconds taken).

    After each push, be busy for `compute` seconds.
    """
    pushes = 0
    start = now = time.perf_counter()
    while now - start < seconds or pushes < FEWEST_PUSHES:
        push()
        pushes += 1
        now = time.perf_counter()
        ready = now + compute
        while now < ready:
            now = time.perf_counter()
    return pushes, now - start


def contender(case: Case, variant: Variant) -> Optimizer:
    """Plain SGD with learning rate 1 over one parameter of zeros of the case's shape."""
    parameter = torch.nn.Parameter(torch.zeros(case.shape))
    return make_optimizer("SGD", [parameter], {"lr": 1.0}, variant)


def only_parameter(optimizer: Optimizer) -> torch.nn.Parameter:
    """The parameter of a `contender`, read from the optimizer as each thread has its own."""
    parameter: torch.nn.Parameter = optimizer.param_groups[0]["params"][0]
    return parameter


class Contention(DenseProblem):
    """The microbenchmark as a problem of ``asyncopt compare``; always SGD, whatever the rule."""

    name = "contention"
    title = "Contention microbenchmark"
    about = (
        "Workers push ready-made SGD gradients with no computation in between: dense vectors from "
        f"one cache line to beyond the last-level cache, and {ROWS_PER_PUSH} rows of a table of "
        f"{TABLE_ROWS:,} rows x {LINE}, drawn skewed (weight 1/rank) or uniformly."
    )
    takes_turns = False

    def seconds(self, plan: Comparison) -> float:
        """Length of one measurement."""
        return 0.03 if plan.quick else 0.06

    def steps(self, plan: Comparison, workers: int) -> int:
        """One tick per worker and measurement."""
        return len(cases(plan)) * len(plan.schedule()) * workers

    def cost(self, plan: Comparison, workers: int) -> float:
        """Start-up, and the measurements with what surrounds them."""
        return 5.0 + self.steps(plan, 1) * self.seconds(plan) * 1.5

    def measure(self, plan: Comparison, workers: int, meter: Meter) -> list[SyncRow]:
        """All cases, variants and repeats with `workers` workers."""
        return self.measure_cases(cases(plan), plan, workers, meter)

    def measure_cases(
        self, chosen: Sequence[Case], plan: Comparison, workers: int, meter: Meter
    ) -> list[SyncRow]:
        """Measure the `chosen` cases; one tick per worker and measurement."""
        jobs = [
            Job(case, variant, contender(case, variant) if variant.sync else None)
            for case in chosen
            for variant in plan.variants
        ]
        places = {(job.case, job.variant): place for place, job in enumerate(jobs)}
        order = [places[case, variant] for case in chosen for _, variant in plan.schedule()]
        run = launch(
            hammer,
            # Threads get copies of parameters in plain containers only.
            args=([tuple(job) for job in jobs], order, self.seconds(plan), plan.seed, meter.counts),
            workers=workers,
            mode=plan.mode,
            threads_per_worker=1,
        )
        return [self.row(place, job, workers, run.results) for place, job in enumerate(jobs)]

    def row(self, place: int, job: Job, workers: int, reports: list[Report]) -> SyncRow:
        """The repeats of one job as a row."""
        together = zip(*(report.samples for report in reports), strict=True)
        samples = [parts for parts in together if parts[0].job == place]
        rates = tuple(sum(part.pushes / part.seconds for part in parts) for parts in samples)
        seconds = tuple(max(part.seconds for part in parts) for parts in samples)
        total = sum(report.pushes[place] for report in reports)
        lost = lost_updates(job, total)
        ledger = Ledger.merge([p[0].ledger for p in samples if p[0].ledger is not None])
        return SyncRow(
            problem=self.name,
            case=job.case.name,
            case_bytes=job.case.size,
            variant=job.variant.label,
            sync=job.variant.sync,
            audit=job.variant.audit,
            workers=workers,
            seconds=Spread(seconds),
            updates_per_second=Spread(rates),
            element_updates_per_second=Spread(tuple(rate * job.case.pushed for rate in rates)),
            pushes=sum(part.pushes for parts in samples for part in parts),
            lock_wait_share=ledger.lock_wait_seconds / (workers * sum(seconds)),
            lock_waits=ledger.lock_waits,
            retries=ledger.retries,
            skipped_nonfinite=ledger.skipped_nonfinite,
            lost_updates=lost,
            lost_share=None if lost is None else lost / (total * job.case.pushed),
            staleness=staleness_of(ledger) if job.variant.sync else None,
        )


def lost_updates(job: Job, pushes: int) -> int | None:
    """Element updates that were pushed and are not in the final values (None: nothing shared).

    Raises StudyError: the build is wrong, and so is every other number. A sync that promises to
    lose nothing lost some, more landed than was pushed, or the audit counted something else.
    """
    if job.optimizer is None or job.variant.sync is None:
        return None
    pushed = pushes * job.case.pushed
    landed = int(only_parameter(job.optimizer).detach().sum(dtype=torch.float64) / INCREMENT)
    lost = pushed - landed
    wrong = lost != 0 if not syncs()[job.variant.sync]["may_lose"] else lost < 0
    if job.variant.audit:
        wrong = lost != job.optimizer.ledger().lost_updates
    if wrong:
        raise StudyError(
            f"contention, {job.case.name}: {job.variant.label} was pushed {pushed} element updates "
            f"and holds {landed}, with {job.optimizer.ledger().lost_updates} counted as lost; "
            "this build is broken, run asyncopt doctor and report it"
        )
    return lost
