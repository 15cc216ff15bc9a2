"""Checks, warnings and failures of ``asyncopt doctor``; test_modes.py tests its advice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

import asyncopt
from asyncopt import _limits
from asyncopt.cli.commands import cli
from asyncopt.gpu import unavailable
from asyncopt.report.text import size_text
from asyncopt.studies import machine
from asyncopt.studies.diagnosis import checks, rates
from asyncopt.studies.diagnosis.study import fact_lines
from tests.studies import made_up

runner = CliRunner()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the measurements, which take seconds in full."""
    monkeypatch.setattr(rates, "SIZES", (1000, 10_000))
    monkeypatch.setattr(rates, "SAMPLES", 1)


def warned(workers: int | None = None, isas: tuple[str, ...] = ("a", "b"), **changes: Any) -> str:
    """Warnings for a perfect machine with `changes`."""
    found = checks.warnings(made_up.machine(**changes), workers, isas[-1], isas)
    return " ".join(warning.about for warning in found)


def test_a_perfect_machine_is_not_warned_of() -> None:
    assert warned(workers=4) == ""


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"workers": 5}, "workers"),
        ({"cpu_quota": 1.5}, "cpu quota"),
        ({"hyperthreads": True}, "hyperthreads"),
        ({"numa_nodes": 2}, "memory nodes"),
        ({"load": 3.0}, "load"),
        ({"omp_num_threads": None}, "OMP_NUM_THREADS"),
        ({"memory_available": 2**30}, "memory"),
        ({"memory_limit": 2**30}, "memory"),
        ({"limit_nofile": 256}, "open files"),
        ({"limit_fsize": 2**20}, "file size"),
        ({"isas": ("baseline",)}, "instruction set"),
        ({"governor": "powersave"}, "frequency governor"),
        ({"shm_huge_pages": "never"}, "huge pages"),
        ({"extras": {"mlxtend": None}}, "extras"),
    ],
)
def test_each_trouble_is_warned_of(changes: dict[str, Any], about: str) -> None:
    assert warned(**changes) == about


def test_an_overridden_instruction_set_is_warned_of() -> None:
    found = list(checks.warnings(made_up.machine(), None, "baseline", ("baseline", "avx2")))
    assert any("unset ASYNCOPT_ISA" in warning.remedy for warning in found)


def test_a_build_without_kernels_for_the_gpu_that_is_there_is_warned_of() -> None:
    why = "this build has none; build it anew"
    for cuda, no_cuda, expected in ((None, why, 0), ("1 x GPU", None, 0), ("1 x GPU", why, 1)):
        found = list(checks.warnings(made_up.machine(cuda=cuda), None, "b", ("a", "b"), no_cuda))
        assert [warning.about for warning in found] == ["CUDA kernels"] * expected
        assert all(warning.remedy == "build it anew" for warning in found)


def test_what_the_kernel_hides_is_not_an_error() -> None:
    hidden = ("governor", "hyperthreads", "l1d", "l2", "l3", "memory", "shm_huge_pages", "cuda")
    blind = made_up.machine(**dict.fromkeys(hidden), memory_available=None)
    assert list(checks.warnings(blind, None, "a", ("a",))) is not None
    build = checks.Build("1", "here", "a", ("a",), "none", (), ())
    assert len(list(fact_lines(blind, build))) > 15


def test_this_build_works_and_doctor_says_so() -> None:
    result = runner.invoke(cli, ["doctor"])
    assert result.exit_code == 0, result.output
    for text in (asyncopt.__version__, "torch", "instruction set", "caches", "limits", "extras"):
        assert text in result.stdout
    checks = len(asyncopt.rules()) + len(asyncopt.syncs())
    assert f"self-check: {checks} of {checks} passed" in result.stdout
    assert "\nRecommended: " in result.stdout


def test_doctor_as_json() -> None:
    result = runner.invoke(cli, ["doctor", "--json", "--workers", "256"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert set(facts) == {"works", "build", "machine", "checks", "warnings", "rates", "advice"}
    assert facts["works"] is True
    assert facts["build"]["isa"] in facts["build"]["isas"]
    assert facts["build"]["cuda_kernels"] is (unavailable() is None)
    assert facts["machine"]["usable_cores"] >= 1
    assert all(check["passed"] for check in facts["checks"])
    assert "workers" in [warning["about"] for warning in facts["warnings"]]
    assert facts["rates"]["copy"] > 0
    assert facts["advice"] is None


def test_a_step_that_differs_from_torch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncopt, "Adam", asyncopt.SGD)
    result = runner.invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "FAILED Adam steps like torch.optim.Adam: differs from torch" in result.stdout
    assert result.stderr.startswith("error: this build does not work")


def test_a_push_that_raises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, workers: int) -> None:
        raise asyncopt.SegmentError("no memory")

    monkeypatch.setattr(asyncopt.SGD, "share_memory", refuse)
    result = runner.invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert not facts["works"]
    assert facts["rates"] is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "unknown"), (-1, "unlimited"), (64, "64 B"), (1536, "1.5 KiB"), (2**40, "1 TiB")],
)
def test_size_text(size: int | None, text: str) -> None:
    assert size_text(size) == text


def test_limits_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_limits, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(_limits, "group_memory_limit", lambda: 2**40)
    monkeypatch.setattr(_limits, "available_memory", lambda: _limits.Memory(2**29, "here"))
    monkeypatch.setattr(_limits, "descriptor_limit", lambda: None)
    found = machine.look()
    assert found.cpu_quota == 0.5
    assert found.memory_limit == 2**40
    assert found.memory_available == machine.available_memory() == 2**29
    assert found.limit_nofile == -1
