"""Numbers: spreads, curves, speed-ups, staleness, JSON, the tables and the sentences."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest

import asyncopt
from asyncopt.report.text import rate_text, share_text
from asyncopt.store.ledger import Histogram, WorkerLedger
from asyncopt.studies.dense.findings import findings, recommendation
from asyncopt.studies.dense.plan import SyncRow, with_speedups
from asyncopt.studies.dense.study import Compare
from asyncopt.studies.dense.table import full_table, per_push_text, short_table
from asyncopt.studies.driver import facts
from asyncopt.studies.result import Result
from asyncopt.studies.rows import Spread, curve_of, plain, staleness_of
from asyncopt.studies.training.jobs import Variant
from tests.studies import made_up

HOGWILD = Variant("hogwild", "hogwild", False)
MUTEX = Variant("mutex", "mutex", False)
RIVAL = "mutex, the fastest blocking sync"


def test_spread_has_quartiles() -> None:
    spread = Spread((1.0, 2.0, 3.0, 4.0, 5.0))
    assert (spread.q1, spread.median, spread.q3) == (2.0, 3.0, 4.0)


def test_curve_is_in_order_of_time_and_averages_slices() -> None:
    curve = curve_of([(3.0, 1.0), (1.0, 4.0), (2.0, 2.0), (4.0, 3.0)], most=2)
    assert curve.seconds == (1.5, 3.5)
    assert curve.loss == (3.0, 2.0)
    assert curve_of([], most=2).loss == ()


def test_speedup_is_against_one_worker_of_the_same_variant() -> None:
    one = made_up.training_row("mnist", HOGWILD, 1, seconds=Spread((3.0,)))
    two = made_up.training_row("mnist", HOGWILD, 2, seconds=Spread((2.0,)))
    other = made_up.training_row("mnist", MUTEX, 2, seconds=Spread((2.0,)))
    speedups = [row.speedup for row in with_speedups([one, two, other])]
    assert speedups == [1.0, 1.5, None]


def test_speedup_of_a_fixed_time_counts_updates() -> None:
    rates = {1: Spread((100.0,)), 2: Spread((150.0,))}
    rows = [
        made_up.training_row("contention", HOGWILD, workers, case="x", updates_per_second=rate)
        for workers, rate in rates.items()
    ]
    assert [row.speedup for row in with_speedups(rows)] == [1.0, 1.5]


def ledger_with(values: list[int]) -> asyncopt.Ledger:
    histogram = asyncopt.Ledger(0, ()).staleness
    floors = histogram.edges
    counts = np.zeros_like(histogram.counts)
    for value in values:
        counts[int(np.searchsorted(floors, value, side="right")) - 1] += 1
    fields = {field.name: 0 for field in dataclasses.fields(WorkerLedger)}
    staleness = Histogram(counts, sum(values))
    return asyncopt.Ledger(0, (WorkerLedger(**(fields | {"staleness": staleness})),))  # type: ignore[arg-type]


def test_staleness_keeps_the_bins_that_counted() -> None:
    found = staleness_of(ledger_with([0, 0, 1, 3]))
    assert found is not None
    assert found.counts == (2, 1, 0, 1)
    assert found.edges == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert (found.p50, found.p99, found.mean) == (0.0, 3.0, 1.0)


def test_staleness_of_nothing_is_none() -> None:
    assert staleness_of(ledger_with([])) is None


def test_staleness_in_the_last_bin_ends_somewhere() -> None:
    last = int(asyncopt.Ledger(0, ()).staleness.edges[-1])
    found = staleness_of(ledger_with([last]))
    assert found is not None
    assert len(found.edges) == len(found.counts) + 1
    assert found.edges[-1] > found.edges[-2] == last


def test_plain_has_no_nan_and_no_tuples() -> None:
    assert plain({"a": (1.0, math.nan), "b": [math.inf]}) == {"a": [1.0, None], "b": [None]}


def test_document_is_valid_json_with_all_fields() -> None:
    plan = made_up.plan()
    rows = made_up.rows(plan)
    rows[0] = dataclasses.replace(rows[0], test_loss=Spread((math.nan,)))
    study, machine = Compare(plan), made_up.machine()
    about = facts(study, datetime(2020, 1, 1, tzinfo=UTC))
    result = Result(study, machine, about, tuple(study.sections(rows, machine)), 1.5)
    again = json.loads(result.json())
    check_schema(again)
    assert again["rows"][0]["test_loss"]["median"] is None


def check_schema(document: dict[str, object]) -> None:
    """Check the documented schema of results.json."""
    assert document["schema"] == 1
    for name in ("command", "date", "versions", "isa"):
        assert isinstance(document[name], str)
    assert isinstance(document["elapsed_seconds"], int | float)
    options, rows = document["options"], document["rows"]
    assert isinstance(options, dict)
    assert isinstance(rows, list)
    assert isinstance(document["machine"], dict)
    assert isinstance(document["findings"], dict)
    assert set(document["findings"]) == set(options["problems"])
    for row in rows:
        assert row["problem"] in options["problems"]
        assert row["workers"] in options["workers"]
        assert row["sync"] is None or row["sync"] in options["syncs"]
        assert isinstance(row["audit"], bool)
        for rate in ("seconds", "updates_per_second", "element_updates_per_second"):
            assert set(row[rate]) == {"median", "q1", "q3", "values"}
            assert row[rate]["median"] > 0
        for count in ("pushes", "lock_waits", "retries", "skipped_nonfinite", "repairs"):
            assert isinstance(row[count], int)
        assert 0 <= row["lock_wait_share"] <= 1
        for optional in ("lost_updates", "lost_share", "speedup", "test_loss", "killed"):
            assert optional in row
        if row["sync"] is not None:
            assert set(row["staleness"]) == {"p50", "p99", "mean", "edges", "counts"}
            assert len(row["staleness"]["edges"]) == len(row["staleness"]["counts"]) + 1
        if not row["case"]:
            assert len(row["curves"]) == len(row["seconds"]["values"])
            assert (row["test_loss"] is None) == (row["sync"] is None)


@pytest.mark.parametrize("problem", ["mnist", "contention"])
def test_full_table_has_a_line_for_every_row(problem: str) -> None:
    plan = made_up.plan(problems=(problem,))
    rows = made_up.rows(plan)
    table = full_table(rows)
    assert len(table.rows) == len(rows)
    assert all(len(row.cells) == len(table.headings) for row in table.rows)
    assert table.rows[-1].last


def test_short_contention_table_has_a_row_for_every_case_and_variant() -> None:
    plan = made_up.plan(problems=("contention",))
    table = short_table(made_up.rows(plan))
    names = [(row.cells[0], row.cells[1]) for row in table.rows]
    assert names == [(case, v.label) for case, _ in made_up.CASES for v in plan.variants]
    assert all(len(row.cells) == len(table.headings) for row in table.rows)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.0, "0"), (12.34, "12.3"), (999.7, "1k"), (12_345, "12.3k"), (2.5e6, "2.5M"), (3e9, "3G")],
)
def test_rate_text(rate: float, text: str) -> None:
    assert rate_text(rate) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (0.0, "0"), (1e-7, "<0.01%"), (0.0123, "1.23%"), (0.5, "50.0%")],
)
def test_share_text(share: float | None, text: str) -> None:
    assert share_text(share) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (1, "<0.001"), (1500, "0.75"), (980_000, "490")]
)
def test_per_push_text(count: int, text: str) -> None:
    row = made_up.training_row("mnist", HOGWILD, 2, pushes=2000)
    assert per_push_text(count, row) == text


def test_findings_say_where_lock_free_loses() -> None:
    slow = made_up.training_row("mnist", HOGWILD, 2, seconds=Spread((2.0, 2.1, 2.2)))
    fast = made_up.training_row("mnist", MUTEX, 2, seconds=Spread((1.0, 1.1, 1.2)))
    text = " ".join(findings([slow, fast], usable_cores=2))
    assert "mutex was fastest" in text
    assert f"Lock-free syncs that were slower than {RIVAL}: hogwild (1.91x the time)." in text
    quick = dataclasses.replace(slow, seconds=Spread((0.5, 0.5, 0.5)))
    text = " ".join(findings([quick, fast], 2))
    assert f"Lock-free syncs that were faster than {RIVAL}: hogwild (0.45x the time)." in text


def test_findings_call_a_difference_within_the_spread_a_tie() -> None:
    one = made_up.training_row("mnist", HOGWILD, 2, seconds=Spread((1.0, 1.2, 1.4)))
    two = made_up.training_row("mnist", MUTEX, 2, seconds=Spread((1.1, 1.3, 1.5)))
    text = " ".join(findings([one, two], usable_cores=2))
    assert f"Lock-free syncs within the spread of {RIVAL}: hogwild." in text


def test_findings_speak_of_worker_counts_that_have_cores() -> None:
    rows = [made_up.training_row("mnist", HOGWILD, count) for count in (1, 2, 8)]
    text = " ".join(findings(rows, usable_cores=2))
    assert "With 2 workers" in text
    assert "More workers than the 2 usable cores" in text


def test_findings_name_the_accuracy_that_was_lost() -> None:
    alone = made_up.training_row("mnist", HOGWILD, 1, test_accuracy=Spread((0.95,)))
    same = made_up.training_row("mnist", HOGWILD, 2, test_accuracy=Spread((0.945,)))
    worse = made_up.training_row("mnist", HOGWILD, 2, test_accuracy=Spread((0.80,)))
    text = " ".join(findings([alone, worse], usable_cores=2))
    assert "hogwild lost 15.0 points of accuracy against one worker (80.0%, was 95.0%)" in text
    assert "No sync lost accuracy" in " ".join(findings([alone, same], usable_cores=2))


def test_findings_name_the_ceiling_of_workers_that_share_nothing() -> None:
    shared = made_up.training_row("mnist", MUTEX, 2, seconds=Spread((2.0, 2.0, 2.0)))
    alone = Variant("unshared", None, False)
    fast = made_up.training_row("mnist", alone, 2, seconds=Spread((1.0, 1.0, 1.0)))
    equal = made_up.training_row("mnist", alone, 2, seconds=Spread((1.9, 2.0, 2.1)))
    assert "mutex reached 50% of that ceiling" in " ".join(findings([shared, fast], 2))
    assert "sharing had no measurable cost for mutex" in " ".join(findings([shared, equal], 2))


def test_kills_are_in_the_table_and_in_a_sentence() -> None:
    calm = made_up.training_row("mnist", HOGWILD, 2)
    assert "killed" not in [heading for heading, _ in full_table([calm]).headings]
    killed = made_up.training_row("mnist", MUTEX, 2, killed=3, repairs=2, trained_again=1)
    table = full_table([killed])
    assert [heading for heading, _ in table.headings][-3:] == ["killed", "twice", "repairs"]
    assert table.rows[0].cells[-3:] == ["3", "1", "2"]
    text = " ".join(findings([killed], usable_cores=2))
    assert "3 workers were killed at work and replaced, and every run finished: 2 locks" in text
    assert "1 mini-batch was pushed twice" in text
    assert "lowest accuracy of all is 91.0% (mutex, 2 workers)" in text
    assert "fastest" not in text
    spared = dataclasses.replace(killed, killed=0)
    assert "No worker was killed" in " ".join(findings([spared], usable_cores=2))


def test_findings_of_contention_name_lost_updates() -> None:
    rows = made_up.rows(made_up.plan(problems=("contention",)))
    assert "lost up to 2.00%" in " ".join(findings(rows, usable_cores=4))


def test_recommendation_leaves_out_syncs_that_lose_accuracy() -> None:
    alone = made_up.training_row("mnist", HOGWILD, 1, test_accuracy=Spread((0.95,) * 3))
    worse = made_up.training_row("mnist", HOGWILD, 2, test_accuracy=Spread((0.80,) * 3))
    other = made_up.training_row("mnist", MUTEX, 2, seconds=Spread((0.7, 0.71, 0.72)))
    assert recommendation([alone, worse, other], usable_cores=2) == (
        "Use mutex with 2 workers: 1.55x one worker; hogwild with 2 workers was faster but lost "
        "accuracy."
    )
    killed = made_up.training_row("mnist", MUTEX, 2, killed=3)
    assert recommendation([killed], usable_cores=2) == ""


def test_recommendation_under_contention_is_by_case() -> None:
    def rated(case: str, variant: Variant, rate: float) -> SyncRow:
        rates = Spread((rate, 1.01 * rate, 1.02 * rate))
        return made_up.training_row("contention", variant, 2, case=case, updates_per_second=rates)

    rows = [rated("rows", HOGWILD, 9.0), rated("rows", MUTEX, 3.0)]
    rows += [rated("dense", HOGWILD, 5.0), rated("dense", MUTEX, 5.0)]  # a tie: mutex loses nothing
    text = recommendation(rows, usable_cores=2)
    assert text.startswith("With 2 workers that push all the time, use hogwild for rows; mutex for")


def test_a_report_begins_and_a_printed_result_ends_with_the_recommendation() -> None:
    study, machine = Compare(made_up.plan(problems=("mnist",), audit=False)), made_up.machine()
    sections = tuple(study.sections(made_up.rows(study.plan), machine))
    result = Result(study, machine, facts(study, datetime.now(UTC)), sections, 1.5)
    (text,) = result.recommendations.values()
    assert " ".join(str(result).split()).endswith(f" Recommended: {text}")
    page = result.html()
    assert page.index(f"<strong>Recommended:</strong> {text}") < page.index("<h2")
    assert result.as_json()["recommendations"] == {"mnist": text}
