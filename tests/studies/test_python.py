"""Studies called from Python: arguments, and methods of the result."""

from __future__ import annotations

import inspect
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import asyncopt
from asyncopt import studies
from asyncopt.simulate import Costs
from asyncopt.studies import machine, options
from asyncopt.studies.dense import study as dense
from asyncopt.studies.dense.plan import SyncRow
from asyncopt.studies.dense.study import Compare
from asyncopt.studies.diagnosis import rates
from asyncopt.studies.driver import facts
from asyncopt.studies.progress import Display
from asyncopt.studies.result import Result
from asyncopt.studies.simulation.costs import costs_text
from asyncopt.studies.simulation.plan import CASES
from asyncopt.studies.sparse import linear
from tests.pages import Reader, check_page
from tests.simulate.test_simulation import USUAL
from tests.studies import made_up

STUDIES = {
    "compare": "dense",
    "compare_sparse": "sparse",
    "staleness": "delayed",
    "simulate": "simulation",
    "doctor": "diagnosis",
}


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons answer at once with made-up numbers."""
    monkeypatch.setattr(Compare, "measure", lambda self, display: made_up.rows(self.plan))
    monkeypatch.setattr(machine, "look", made_up.machine)


def check_result(result: Result[Any], tmp_path: Path) -> None:
    """Check all methods of a result, except for its numbers."""
    text = str(result)
    fragment = Reader()
    fragment.feed(result._repr_html_())
    assert fragment.open == []
    assert "table" in fragment.tags
    assert result.sections
    for section in result.sections:
        assert section.problem.title.split()[0] in text
        assert list(section.findings) == result.findings[section.problem.name]
    frame = result.to_frame()
    assert len(frame) == len(result.rows) > 0
    assert list(frame["problem"]) == [row.problem for row in result.rows]
    assert json.loads(result.json()) == result.as_json()
    result.report(tmp_path / "page.html")
    check_page((tmp_path / "page.html").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.usefixtures("instant")
def test_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = studies.compare(["digits", "contention"], ["mutex", "HOGWILD"], [2, 1], repeats=2)
    said = capsys.readouterr()
    assert said.out == ""
    assert "4 contenders x 2 on digits, contention with 1, 2 workers" in said.err
    check_result(result, tmp_path)
    assert result.rows == tuple(made_up.rows(result.study.plan))
    assert str(result).count("hogwild+audit") == 2 + 3  # digits by workers, contention by cases
    frame = result.to_frame()
    assert list(frame["seconds"]) == [row.seconds.median for row in result.rows]
    assert list(frame["test_loss_q3"].dropna()) == [
        row.test_loss.q3 for row in result.rows if row.test_loss
    ]
    assert result.about["command"].startswith("asyncopt.studies.compare(problems=('digits', 'con")


@pytest.mark.parametrize(
    ("study", "arguments"),
    [
        ("compare", {"kill_rate": 0.5, "delay": "0,0.1", "workers": "1,2"}),
        ("compare_sparse", {"problems": "cuts", "epochs": 3}),
        ("staleness", {"max_staleness": ["none", 4], "schedules": "cosine"}),
        ("simulate", {"cases": "dense 4 KiB", "measure": False}),
        ("doctor", {"parameters": "25M", "step_ms": 40}),
        ("doctor", {}),
    ],
)
def test_the_call_in_a_report_runs_the_same_study_again(
    study: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        f"asyncopt.studies.{STUDIES[study]}.study.run",
        lambda study, **_: (study.plan, facts(study, datetime.now())["command"]),
    )
    monkeypatch.setattr(sys, "argv", ["train.py"])
    plan, call = getattr(studies, study)(**arguments)
    again, same_call = eval(call, {"asyncopt": asyncopt})
    assert (again, same_call) == (plan, call)


@pytest.mark.parametrize(
    ("program", "is_command_line"),
    [
        ("/usr/bin/asyncopt", True),
        ("/site-packages/asyncopt/__main__.py", True),
        ("/site-packages/someone/__main__.py", False),
        ("train.py", False),
        ("", False),
    ],
)
def test_only_the_command_line_is_reported_as_one(
    program: str, is_command_line: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "compare", "--seed", "0"])
    command = facts(Compare(made_up.plan()), datetime.now())["command"]
    assert (command == "asyncopt compare --seed 0") == is_command_line
    assert command.startswith("asyncopt.studies.compare(problems=") != is_command_line


@pytest.mark.slow
@pytest.mark.usefixtures("instant")
def test_nothing_is_shown_or_written_without_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    studies.compare(["digits"], progress=False)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    result = studies.compare(["digits"], out=tmp_path / "here", progress=False)
    assert (tmp_path / "here/report.html").read_text() == result.html()
    assert json.loads((tmp_path / "here/results.json").read_text()) == result.as_json()


@pytest.mark.slow
@pytest.mark.usefixtures("instant")
def test_findings_are_derived_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def findings(rows: list[SyncRow], cores: int) -> list[str]:
        calls.append(rows[0].problem)
        return ["A finding."]

    monkeypatch.setattr(dense, "findings", findings)
    result = studies.compare(["digits", "mnist"], out=tmp_path)
    assert str(result).count("A finding.") == result.html().count("A finding.") == 2
    assert calls == ["mnist", "digits"]


@pytest.mark.usefixtures("instant")
def test_without_pandas_the_rows_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    result = studies.compare(["digits"])
    with pytest.raises(ModuleNotFoundError, match=r"expected the package pandas.*pip install"):
        result.to_frame()
    assert result.rows


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"problems": ["chess"]}, "problems: unknown problem 'chess'; choose from mnist, digits"),
        ({"syncs": ["hogwash"]}, "syncs: unknown sync 'hogwash'; choose from hogwild"),
        ({"workers": [0]}, r"workers: expected whole numbers from 1 to 256 .*; got \[0\]"),
        ({"repeats": 0}, "repeats: expected a whole number from 1 to 1000, got 0"),
        ({"repeats": True}, "repeats: expected a whole number from 1 to 1000, got True"),
        ({"epochs": 0}, "epochs: expected a whole number from 1 to 10000, got 0"),
        ({"lr": -1.0}, "lr: expected a number >= 0, got -1.0"),
        ({"lr": float("nan")}, "lr: expected a number >= 0, got nan"),
        ({"seed": -1}, "seed: expected a whole number >= 0, got -1"),
        ({"rule": "Lion"}, "rule: unknown rule 'Lion'"),
        ({"mode": "fiber"}, "mode: unknown mode 'fiber'; choose from process, thread"),
        ({"kill_rate": 11.0}, "kill_rate: expected kills per second above 0, up to 10; got 11"),
        ({"delay": "soon"}, "delay: expected seconds"),
        ({"max_staleness": -1}, "max_staleness: expected a whole number >= 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(studies.OptionError, match=complaint) as caught:
        studies.compare(**arguments)
    assert isinstance(caught.value, ValueError)
    assert caught.value.option == next(iter(arguments))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each study ends with its plan."""
    for module in STUDIES.values():
        monkeypatch.setattr(f"asyncopt.studies.{module}.study.run", lambda study, **_: study.plan)


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("study", "name"),
    [
        (study, name)
        for study in STUDIES
        for name in inspect.signature(getattr(studies, study)).parameters
        if name not in ("out", "progress")
    ],
)
def test_arguments_of_a_wrong_type_are_named(study: str, name: str) -> None:
    pair: dict[str, Any] = {"parameters": "1M", "step_ms": 1.0} if study == "doctor" else {}
    wrong: Any
    for wrong in (object(), [object()], b"1"):
        with pytest.raises(studies.OptionError) as caught:
            getattr(studies, study)(**(pair | {name: wrong}))
        assert caught.value.option == name


@pytest.mark.usefixtures("planned")
def test_truth_is_not_a_number_and_nothing_is_the_default() -> None:
    wrong: Any = True
    for study, name in [("compare", "workers"), ("compare", "lr"), ("compare", "kill_rate"),
                        ("simulate", "computes"), ("simulate", "cores")]:  # fmt: skip
        with pytest.raises(studies.OptionError, match=f"^{name}: .*got True"):
            getattr(studies, study)(**{name: wrong})
    plan: Any = studies.staleness(max_staleness=[], delays=[], problems=[])
    assert plan == studies.staleness()


@pytest.mark.usefixtures("planned")
def test_delays_are_text_or_numbers() -> None:
    plan: Any = studies.compare(delay=0.002)
    assert plan == studies.compare(delay="0.002")
    plan = studies.staleness(delays=0)
    assert plan == studies.staleness(delays="0")
    plan = studies.staleness(delays=[0, 0.5, "0,0,0,1"])
    assert plan.delays == ("0", "0.5", "0,0,0,1")


@pytest.mark.usefixtures("instant")
def test_one_name_or_number_needs_no_list() -> None:
    plan = studies.compare("digits", "mutex", 2).study.plan
    assert (plan.problems, plan.syncs, plan.workers) == (("digits",), ("mutex",), (2,))
    assert options.several(0) == (0,)
    assert options.several("0,0.1") == ("0,0.1",)
    assert options.several([None, 1]) == (None, 1)
    assert options.several(None) == ()


def test_staleness(tmp_path: Path) -> None:
    result = studies.staleness(
        "teacher", "0", "mutex", schedules="constant", max_staleness=[None, 1],
        workers=2, epochs=1, repeats=1, mode="thread", progress=False,
    )  # fmt: skip
    check_result(result, tmp_path)
    assert [(row.sync, row.max_staleness) for row in result.rows] == [
        (None, None), ("mutex", None), ("mutex", 1),
    ]  # fmt: skip
    wrong: dict[str, Any] = {"workers": 0, "max_staleness": ["few"], "delays": ["soon"]}
    for name, value in wrong.items():
        with pytest.raises(studies.OptionError, match=f"^{name}: expected"):
            studies.staleness(**{name: value})


def test_simulate(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    known = tmp_path_factory.mktemp("costs") / "costs.json"
    costs: dict[str, Costs] = dict.fromkeys(CASES, USUAL)
    known.write_text(costs_text(costs))
    result = studies.simulate(
        "rows, skewed", "mutex", [4, 1], computes=0, costs=known, measure=False
    )
    check_result(result, tmp_path)
    assert [row.cores for row in result.rows] == [1, 4]
    assert list(result.findings) == ["rows, skewed, pushes only"]
    wrong: dict[str, Any] = {"cores": [0], "computes": [], "costs": "/no/such/file"}
    for name, value in wrong.items():
        with pytest.raises(studies.OptionError, match=f"^{name}: "):
            studies.simulate(**{name: value})


def test_compare_sparse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "QUICK_ROWS", 300)
    monkeypatch.setattr(linear.LikeRcv1, "libraries", ())
    result = studies.compare_sparse(
        ["rcv1-shaped"], ["mutex"], [1, 2], epochs=1, repeats=1, quick=True
    )
    check_result(result, tmp_path)
    assert {"train_error", "test_error", "objective"} < {*result.to_frame().columns}
    with pytest.raises(studies.OptionError, match="syncs: expected some that rcv1-shaped has"):
        studies.compare_sparse(["rcv1-shaped"], ["ordered"])


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "SIZES", (1000,))
    monkeypatch.setattr(rates, "SAMPLES", 1)
    result = studies.doctor("2.5M", 30.0, workers=2)
    check_result(result, tmp_path)
    assert result.works
    for text in (str(result), result._repr_html_(), result.html()):
        assert "self-check: " in text
    assert {row.problem for row in result.rows} == {"rates", "modes"}
    assert result.facts["syncs"] == "hogwild, atomic, striped, mutex, seqlock, leashed"
    with pytest.raises(studies.OptionError, match="parameters: expected --step-ms as well"):
        studies.doctor("2.5M")


def test_a_quiet_display_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Display(1.0, quiet=True).say("a line")
    Display(1.0).say("another line")
    assert capsys.readouterr().err == "another line\n"


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match=r"'asyncopt\.studies' has no attribute 'compete'"):
        _ = studies.compete  # type: ignore[attr-defined]
