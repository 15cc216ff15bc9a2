"""The other instruction sets, each in a process of its own: a process chooses only once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asyncopt import _core

from .cases import digest

ROOT = Path(__file__).parents[2]


def run(isa: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python under an instruction set."""
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"ASYNCOPT_ISA": isa},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


OTHERS = [isa for isa in _core.isas() if isa != _core.isa()]


@pytest.mark.parametrize("isa", OTHERS)
def test_the_same_bits_under_another_instruction_set(isa: str) -> None:
    """Every rule and dtype, by plain loops and by compare-exchange."""
    state = torch.get_rng_state()
    here = digest()
    torch.set_rng_state(state)
    done = run(isa, "-c", "from tests.contract.cases import digest; print(digest())")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == here


@pytest.mark.long
@pytest.mark.parametrize("isa", OTHERS)
def test_the_matrix_under_another_instruction_set(isa: str) -> None:
    """Every sync too, by the tests of this one."""
    matrix = str(Path(__file__).with_name("test_equality.py"))
    done = run(isa, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", matrix)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-2000:]}"
    assert " passed" in done.stdout


def test_unknown_instruction_set() -> None:
    """The message names the variable, the machine's instruction sets and the value."""
    program = "import asyncopt, torch; asyncopt.SGD([torch.zeros(3)])"
    done = run("avx1024", "-c", program)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: ASYNCOPT_ISA: expected one of ")
    assert ", ".join(_core.isas()) in last
    assert "'avx1024'" in last
