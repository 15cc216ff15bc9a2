"""Workers under kills, delays and bounded staleness, and the records of them."""

from __future__ import annotations

import warnings

import pytest
import torch

from asyncopt.run import Worker, launch
from asyncopt.run.delays import Delay
from asyncopt.studies.dense.plan import SyncRow
from asyncopt.studies.dense.training import Network
from asyncopt.studies.errors import StudyError
from asyncopt.studies.progress import Meter
from asyncopt.studies.training.jobs import Job, Recipe, Variant, make_optimizer, make_scheduler
from asyncopt.studies.training.kills import AT_REST, Kills, KillTimer
from asyncopt.studies.training.log import Log, LogWriter
from asyncopt.studies.training.measure import Conditions, Measured, measure
from asyncopt.studies.training.networks import Digits, evaluate
from tests.studies import made_up

DIGITS = Digits()


def digits(epochs: int, sync: str | None) -> Job:
    torch.manual_seed(0)
    model = DIGITS.build()
    recipe = Recipe(32, epochs, "SGD", {"lr": 0.1}, torch.nn.functional.cross_entropy)
    if sync is None:
        return Job("digits", 0, model, None, recipe)
    variant = Variant(sync, sync, False)
    optimizer = make_optimizer("SGD", model.parameters(), recipe.options, variant)
    return Job("digits", 0, model, optimizer, recipe)


def run(jobs: list[Job], workers: int, conditions: Conditions) -> list[Measured]:
    x, y = DIGITS.load(0).train
    data = {"digits": (x.clone(), y.clone())}  # what a launch shares stays shared
    meter = Meter(workers, sum(job.recipe.batches(data["digits"]) for job in jobs))
    found = measure(jobs, data, workers, conditions, meter)
    assert meter.fraction == 1.0
    return found


@pytest.mark.slow
def test_killed_workers_are_replaced_and_every_batch_is_trained() -> None:
    """One dies after about 0.1 s of work, in the first job; the other in the second."""
    jobs = [digits(5, "mutex"), digits(5, None)]
    conditions = Conditions("process", Delay.constant(0.002), kill_rate=2.0, seed=312)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(jobs, 2, conditions)
    assert found[0].killed >= 1
    assert sum(each.killed for each in found) >= 2
    for _, trace, killed, again in found:
        assert 0 <= again <= killed
        assert 5 * 45 <= len(trace.points) <= 5 * 45 + again
        assert [when for when, _ in trace.points] == sorted(when for when, _ in trace.points)
        assert trace.points[0][0] > 0
        assert trace.seconds == trace.points[-1][0] > 5 * 45 * 0.002 / 2  # the delays alone
    assert evaluate(jobs[0].model, DIGITS.load(0).test)[1] > 0.7


def test_a_loss_that_nobody_meant_ends_the_run() -> None:
    def stumble(worker: Worker) -> None:
        raise KeyError("broken")

    kills = Kills(workers=2, jobs=1, rate=1.0, seed=0)
    said = r"^worker \d raised KeyError: 'broken', and not by this study"
    with pytest.raises(StudyError, match=said), kills.expected():
        launch(stumble, workers=2, mode="thread", **kills.options)


def test_a_replacement_counts_the_death_of_its_predecessor() -> None:
    kills = Kills(workers=2, jobs=3, rate=0.0, seed=0)
    with KillTimer(kills, 1).running(2):
        assert kills.at_work.tolist() == [AT_REST, 2]
        KillTimer(kills, 1)  # as if the other had died there
    KillTimer(kills, 1)
    assert kills.counts.tolist() == [[0, 0], [0, 0], [0, 1]]
    assert kills.lives.tolist() == [0, 3]


def test_a_log_is_in_order_of_time_and_outlives_its_writers() -> None:
    log = Log(workers=2, jobs=2, room=3)
    first, other = LogWriter(log, 0), LogWriter(log, 1)
    for writer in (first, other):
        writer.start(0)
    began = log.starts[0].tolist()
    first.write(0, 3.0)
    other.write(0, 2.0)
    log.losses[0, 1] = 9.0  # a record that was cut short
    replacement = LogWriter(log, 0)
    replacement.start(0)
    assert log.starts[0].tolist() == began
    replacement.write(0, 1.0)
    replacement.start(1)
    replacement.write(1, 0.5)
    seconds, points = log.trace(0)
    assert [loss for _, loss in points] == [3.0, 2.0, 1.0]
    assert 0 < points[0][0] < points[1][0] < points[2][0] == seconds


def rows(**changes: object) -> dict[str, SyncRow]:
    """One epoch on digits with three threads, by variant."""
    options = {"problems": ("digits",), "syncs": ("hogwild", "leashed"), "audit": False}
    plan = made_up.plan(**options, mode="thread", workers=(3,), repeats=1, epochs=1, **changes)
    digits = Network(DIGITS)
    meter = Meter(3, digits.steps(plan, 3))
    assert digits.cost(plan, 3) > 0
    return {row.variant: row for row in digits.measure(plan, 3, meter)}


def test_a_delay_takes_its_time_and_makes_pushes_stale() -> None:
    for row in rows(delay="0.01").values():
        assert row.seconds.median >= 45 / 3 * 0.01
        assert row.killed is None
        if row.sync is not None:
            assert row.staleness is not None
            assert row.staleness.mean > 1


def test_no_push_is_staler_than_the_bound_and_nobody_else_is_bound() -> None:
    found = rows(delay="0.02", max_staleness=0)
    for row in found.values():
        if row.sync is not None:
            assert row.staleness is not None
            assert row.staleness.counts == (45,)
            assert row.seconds.median >= 45 * 0.02
    assert found["unshared"].seconds.median < 45 * 0.02


@pytest.mark.parametrize(("name", "rates"), [("cosine", [1, 0.75, 0.25]), ("restarts", [1, 1, 1])])
def test_schedules_follow_torch(name: str, rates: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(name, optimizer, 3)
    assert scheduler is not None
    found = []
    for _ in rates:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx(rates)
    assert make_scheduler("constant", optimizer, 3) is None
