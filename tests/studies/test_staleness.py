"""``asyncopt staleness``: its teacher, plain SGD in it, and the whole study with threads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import asyncopt
from asyncopt.cli.commands import cli
from asyncopt.studies import machine
from asyncopt.studies.delayed.findings import findings, recommendation
from asyncopt.studies.delayed.plan import Contender, Delayed, DelayRow, parse_delays
from asyncopt.studies.delayed.problems import CONDITION, Teacher, half_square, lesson
from asyncopt.studies.delayed.study import StudyStaleness
from asyncopt.studies.delayed.table import study_table
from asyncopt.studies.delayed.trainings import train_all
from asyncopt.studies.options import seed_of
from asyncopt.studies.progress import Display, Meter
from asyncopt.studies.rows import Spread, Staleness
from asyncopt.studies.training.jobs import SCHEDULES, make_scheduler
from asyncopt.studies.training.measure import Conditions
from tests.pages import check_page
from tests.studies import made_up

runner = CliRunner()


def plan(**changes: object) -> Delayed:
    options: dict[str, object] = {
        "problems": ("teacher",),
        "delays": ("0",),
        "max_staleness": (None,),
        "syncs": ("hogwild",),
        "schedules": ("constant",),
        "workers": 2,
        "repeats": 1,
        "epochs": 1,
        "lr": None,
        "seed": 0,
        "mode": "thread",
        "quick": True,
    }
    return Delayed(**(options | changes))  # type: ignore[arg-type]


def test_the_optimum_is_that_of_numpy() -> None:
    x, y = (part.double().numpy() for part in lesson(3).split.train)
    expected, *_ = np.linalg.lstsq(x, y, rcond=None)
    np.testing.assert_allclose(lesson(3).optimum.numpy(), expected, rtol=1e-9)
    assert np.linalg.cond(x) ** 2 == pytest.approx(CONDITION, rel=0.6)
    # The teacher is near, the noise between them.
    assert 0 < (lesson(3).optimum - lesson(3).teacher).norm() < 0.2 * lesson(3).teacher.norm()


def test_scores_at_the_optimum_and_at_the_start() -> None:
    teacher = Teacher()
    model = teacher.build()
    start = teacher.score(model, 0)
    assert start["distance"] == pytest.approx(1.0)
    assert start["norm"] == 0
    x, y = lesson(0).split.train
    with torch.no_grad():
        assert start["train_loss"] == pytest.approx(float(teacher.loss(model(x), y)), rel=1e-5)
        (weights,) = model.parameters()
        weights[:] = lesson(0).optimum
    there = teacher.score(model, 0)
    assert there["distance"] < 1e-6
    assert there["excess_risk"] < 0.01 * start["excess_risk"]
    assert there["gap"] == pytest.approx(there["test_loss"] - there["train_loss"])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_plain_sgd_is_that_of_torch(schedule: str) -> None:
    contender = Contender("mutex", schedule)
    options = plan(schedules=(schedule,), epochs=2, repeats=2)
    meter = Meter(1, 2 * Teacher().pushes(options))
    found = train_all(options, [Teacher()], [contender], 1, Conditions("thread"), meter)
    (trainings,) = found.values()
    for repeat, training in enumerate(trainings):
        assert len(training.trace.points) == 2 * 64
        expected = by_torch(schedule, seed_of(options.seed, repeat))
        assert training.scores["distance"] == pytest.approx(expected, rel=1e-4)


def by_torch(schedule: str, seed: int) -> float:
    """Distance to the optimum that torch's own SGD and scheduler reach in two epochs."""
    model = Teacher().build()
    optimizer = torch.optim.SGD(model.parameters(), lr=Teacher.lr)
    scheduler = make_scheduler(schedule, optimizer, 2 * 64)
    worker = asyncopt.Worker(0, 1, lambda timeout: None)
    for x, y in worker.batches(lesson(0).split.train, 16, epochs=2, seed=seed):
        optimizer.zero_grad()
        half_square(model(x).squeeze(-1), y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return Teacher().score(model, 0)["distance"]


@pytest.mark.slow
def test_a_study_with_threads(tmp_path: Path) -> None:
    arguments = (
        "staleness --quick --mode thread --workers 3 --epochs 1 --repeats 1 --sync mutex "
        "--sync leashed --schedule constant --schedule staleness --schedule restarts "
        "--delay 0 --delay 0.003 --max-staleness none --max-staleness 0 --json"
    )
    result = runner.invoke(cli, [*arguments.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "results.json").read_text())
    assert document["schema"] == 1
    for problem, steps in (("teacher", 64), ("digits", 45)):
        rows = [row for row in document["rows"] if row["problem"] == problem]
        assert len(rows) == 2 + 2 * 2 * 6  # plain SGD, then delays x bounds x contenders
        serial = [row for row in rows if row["sync"] is None]
        assert [row["schedule"] for row in serial] == ["constant", "restarts"]
        assert all(row["ratio"]["median"] == 1 for row in serial)
        assert {row["pushes"] for row in rows} == {steps}
        for row in rows:
            stale = row["staleness"]
            if row["max_staleness"] == 0:
                assert stale["counts"] == [steps]
                if row["schedule"] != "staleness":  # then every worker's pushes are in turn
                    assert row["ratio"]["median"] == pytest.approx(1, rel=1e-3)
            elif row["delay"] == "0.003":
                assert stale["mean"] > 1
                assert row["seconds"]["median"] > steps / 3 * 0.003
        assert len(document["findings"][problem]) == 5
    assert all(
        row["scores"]["distance"]["median"] < 1
        for row in document["rows"]
        if row["problem"] == "teacher"
    )
    page = (tmp_path / "report.html").read_text()
    check_page(page)
    assert page.count("<svg") == 6


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> list[Delayed]:
    """Studies answer at once with made-up numbers; the plans they were given."""
    plans = []

    def measure(self: StudyStaleness, display: Display) -> list[DelayRow]:
        plans.append(self.plan)
        return [row(problem=name, **each) for name in self.plan.problems for each in ({}, LATE)]

    monkeypatch.setattr(StudyStaleness, "measure", measure)
    monkeypatch.setattr(machine, "look", made_up.machine)
    return plans


LATE = {
    "delay": "0.002",
    "sync": "hogwild",
    "workers": 4,
    "staleness": Staleness(3.0, 4.0, 2.9, (3.0, 4.0), (9,)),
}


def row(**changes: object) -> DelayRow:
    ones = Spread((1.0, 1.0, 1.0))
    losses = ("distance", "excess_risk", "gap", "norm", "train_loss", "test_loss")
    names = (*losses, "train_accuracy", "accuracy")
    fields: dict[str, object] = {
        "problem": "teacher",
        "delay": None,
        "max_staleness": None,
        "sync": None,
        "schedule": "constant",
        "workers": 1,
        "pushes": 9,
        "seconds": ones,
        "updates_per_second": ones,
        "staleness": None,
        "scores": dict.fromkeys(names, Spread((0.5, 0.5, 0.5))),
        "ratio": ones,
        "gap_change": Spread((-0.01, 0.0, 0.01)),
        "norm_ratio": ones,
        "losses": ((1.0, 0.5),) * 3,
    }
    return DelayRow(**(fields | changes))  # type: ignore[arg-type]


def test_defaults(instant: list[Delayed], tmp_path: Path) -> None:
    result = runner.invoke(cli, ["staleness", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "Linear regression from a teacher" in result.stdout
    (given,) = instant
    assert given.problems == ("teacher", "digits")
    assert given.delays == ("0", "0.002", "0,0,0,0.02") == parse_delays(None, 4, seed=0)
    assert given.max_staleness == (None,)
    assert given.schedules == ("constant", "cosine", "restarts", "staleness")
    assert len(given.contenders) == 3 * 4


def test_findings_name_the_worst_and_what_scaling_does() -> None:
    worst = row(**LATE, ratio=Spread((2.0, 2.1, 2.2)))
    scaled = row(**LATE, schedule="staleness", ratio=Spread((0.3, 0.3, 0.3)))
    first, last = findings(Teacher(), [row(), worst, scaled])
    assert first == (
        "4 workers, delay 0.002: staleness 2.9 on average, p99 4: 1 of 2 configurations was worse "
        "than plain SGD; the worst, hogwild (constant), ended 2.10x as far from the optimum as "
        "plain SGD. Dividing steps by 1 + staleness: 0.30x instead of 2.10x for hogwild with a "
        "constant rate."
    )
    assert "no configuration that trained as far under a delay has another gap" in last


def test_findings_say_what_diverged() -> None:
    lost = row(**LATE, ratio=Spread((1.0, math.inf, math.nan)))
    slow = row(**LATE, schedule="cosine", ratio=Spread((1.5, 1.5, 1.5)))
    text = findings(Teacher(), [row(), row(schedule="cosine"), slow, lost])[0]
    assert "2 of 2 configurations were worse than plain SGD; hogwild (constant) diverged." in text
    alone = row(scores={"distance": Spread((math.nan,))})
    assert findings(Teacher(), [alone, lost]) == [
        "plain SGD (constant) diverged, so nothing can be compared with it; lower --lr."
    ]
    assert "diverged" in study_table(Teacher(), [row(), lost]).rows[1].cells


def test_findings_say_that_nothing_stands_out() -> None:
    noisy = row(**LATE, ratio=Spread((0.9, 1.05, 1.2)))
    assert "no difference beyond the noise" in findings(Teacher(), [row(), noisy])[0]
    better = row(**LATE, ratio=Spread((0.5, 0.5, 0.5)))
    assert (
        "no configuration was worse, and hogwild (constant) ended 0.50x"
        in (findings(Teacher(), [row(), better])[0])
    )


def test_findings_name_the_gap_that_changed_most() -> None:
    wider = row(**LATE, gap_change=Spread((0.15, 0.2, 0.25)), norm_ratio=Spread((0.9,) * 3))
    assert "wider by 0.2 than plain SGD (constant)" in findings(Teacher(), [row(), wider])[-1]
    assert "0.90x its norm" in findings(Teacher(), [row(), wider])[-1]
    scores = {**wider.scores, "train_loss": Spread((5.0, 5.0, 5.0))}
    lost = row(**LATE, gap_change=wider.gap_change, scores=scores)  # it has learned nothing
    assert "has another gap" in findings(Teacher(), [row(), lost])[-1]


def test_the_bound_is_a_column_where_there_is_one() -> None:
    def headings(*rows: DelayRow) -> list[str]:
        return [heading for heading, _ in study_table(Teacher(), rows).headings]

    assert "bound" not in headings(row(), row(**LATE))
    assert "bound" in headings(row(), row(**LATE, max_staleness=2))


def test_recommendation_is_what_loses_least_under_the_worst_delay() -> None:
    far = row(**LATE, ratio=Spread((2.0, 2.1, 2.2)))
    near = row(**LATE, schedule="cosine", ratio=Spread((1.3, 1.3, 1.3)))
    assert recommendation(Teacher(), [row(), far, near]) == (
        "Under delays like these use hogwild (cosine): at worst it ended 1.30x as far from the "
        "optimum as plain SGD, where hogwild (constant) ended 2.10x."
    )
    same = row(**LATE)
    assert recommendation(Teacher(), [row(), same]).startswith("These delays cost nothing beyond")
    lost = row(**LATE, ratio=Spread((1.0, math.inf, math.nan)))
    assert recommendation(Teacher(), [row(), lost]).startswith("Every configuration diverged")
