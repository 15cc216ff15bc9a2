"""``asyncopt simulate``: its files, and a run with costs from a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import asyncopt
from asyncopt.cli.commands import cli
from asyncopt.studies import machine
from asyncopt.studies.rows import Spread, Staleness
from asyncopt.studies.simulation.costs import costs_text
from asyncopt.studies.simulation.findings import findings, recommendation
from asyncopt.studies.simulation.plan import CASES, PredictionRow, workload_of
from asyncopt.studies.simulation.table import short_table
from tests.pages import check_page
from tests.simulate.test_simulation import USUAL
from tests.studies import made_up

runner = CliRunner()


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    path = tmp_path / "known.json"
    path.write_text(costs_text(dict.fromkeys(CASES, USUAL)))
    return path


@pytest.mark.slow
def test_predictions_from_a_file_are_the_same_again(costs: Path, tmp_path: Path) -> None:
    def run(known: Path, out: Path) -> dict[str, object]:
        arguments = "simulate --quick --no-measure --cores 1,2,16 --json"
        result = runner.invoke(cli, [*arguments.split(), "--costs", str(known), "--out", str(out)])
        assert result.exit_code == 0, result.output
        document: dict[str, object] = json.loads(result.stdout)
        assert document == json.loads((out / "results.json").read_text())
        return document

    first = run(costs, tmp_path / "first")
    again = run(tmp_path / "first" / "costs.json", tmp_path / "again")
    assert first["rows"] == again["rows"]
    rows = first["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 2 * 2 * len(asyncopt.syncs()) * 3
    assert all(row["error"] is None for row in rows)
    assert {row["staleness_mean"] for row in rows if row["cores"] == 1} == {0.0}
    page = (tmp_path / "first" / "report.html").read_text()
    check_page(page)
    assert page.count("<svg") == 2 * 4


@pytest.mark.slow
def test_costs_and_rates_that_are_measured(tmp_path: Path) -> None:
    arguments = (
        "simulate --case", "dense 4 KiB", "--case", "rows, skewed", "--sync", "mutex", "--compute",
        "0.0001", "--cores", "1,2,8", "--repeats", "1", "--mode", "thread", "--quick", "--json",
    )  # fmt: skip
    result = runner.invoke(cli, [*arguments[0].split(), *arguments[1:], "--out", str(tmp_path)])
    if machine.look().usable_cores < 2:
        assert result.exit_code == 1
        assert "--costs FILE" in result.stderr
        return
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["cores"] for row in rows] == [1, 2, 8] * 2
    for row in rows:
        assert (row["error"] is None) == (row["cores"] == 8)
        assert (row["staleness_error"] is None) == (row["cores"] != 2)
    assert set(json.loads((tmp_path / "costs.json").read_text())) == {"dense 4 KiB", "rows, skewed"}


def test_one_processor_cannot_measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(machine, "look", made_up.machine)
    result = runner.invoke(cli, ["simulate", "--no-measure", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "--costs FILE" in result.stderr


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1]", "expected costs by case"),
        ("{}", "has no costs"),
        ('{"dense 256 KiB": {}, "rows, skewed": {}}', "costs: expected"),
    ],
)
def test_a_file_that_has_no_costs(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    result = runner.invoke(cli, ["simulate", "--quick", "--costs", str(path)])
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.replace("│", " ").split())


def test_cases_have_the_lines_and_stripes_of_the_store() -> None:
    vector, table = (workload_of(CASES[name]) for name in ("dense 256 KiB", "rows, skewed"))
    assert (vector.lines, vector.touched, vector.stripe_lines) == (4096, 4096, 4)
    assert (table.lines, table.touched, table.stripe_lines, table.skew) == (65_536, 32, 64, 1.0)


def row(**changes: object) -> PredictionRow:
    fields: dict[str, object] = {
        "problem": "dense, pushes only",
        "case": "dense",
        "compute": 0.0,
        "sync": "mutex",
        "cores": 2,
        "updates_per_second": 110.0,
        "staleness_mean": 1.5,
        "staleness_p50": 1,
        "staleness_p99": 3,
        "waits": 0.5,
        "retries": 0.0,
    }
    return PredictionRow(**(fields | changes))  # type: ignore[arg-type]


def test_errors_stand_beside_what_was_measured() -> None:
    measured = row(
        measured_updates_per_second=Spread((90.0, 100.0, 120.0)),
        measured_staleness=Staleness(1.0, 2.0, 1.0, (0.0, 1.0, 2.0), (1, 1)),
    )
    assert measured.error == pytest.approx(0.1)
    assert measured.staleness_error == pytest.approx(0.5)
    many = row(cores=8, updates_per_second=115.0, staleness_mean=7.0)
    assert short_table([measured, many]).rows[0].cells == [
        "mutex", "110", "+10%", "115", "7.0 / 3",
    ]  # fmt: skip
    error, ahead, end = findings([measured, many])
    assert error.endswith("is off by 10% at the median, and at most by +10% (mutex).")
    assert ahead == "On 8 cores mutex would make 115 updates/s at a mean staleness of 7 (p99 3)."
    assert end == "Does not scale: mutex beyond 2 cores (115/s)."


def test_recommendation_stops_where_more_cores_add_nothing() -> None:
    rows = [row(), row(cores=4, updates_per_second=190.0), row(cores=8, updates_per_second=200.0)]
    assert recommendation(rows) == (
        "Use mutex on 4 cores: 190 updates/s predicted; more cores add less than 11%."
    )
    wrong = row(measured_updates_per_second=Spread((50.0,) * 3))
    assert recommendation([wrong, *rows[1:]]).startswith("None: against what was measured here")
    assert "off by 120% at the median" in recommendation([wrong, *rows[1:]])
