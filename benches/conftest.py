"""Options, machine information and progress lines shared by all benches."""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import asyncopt
from asyncopt import _core

Say = Callable[[str], None]

LONGEST = 3600.0  # s


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="smaller sizes, fewer samples: shows that the benches work, not how fast things are",
    )


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Record the machine information that benches/README.md prints above its tables."""
    machine_info["asyncopt"] = {
        "version": asyncopt.__version__,
        "isa": _core.isa(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_name(),
        "quick": config.getoption("--quick"),
        "command": " ".join(["pytest", *config.invocation_params.args]),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Raise the hang timeout to `LONGEST`: benches take longer than tests."""
    faulthandler.dump_traceback_later(LONGEST, exit=True)


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether `--quick` was asked for."""
    return bool(pytestconfig.getoption("--quick"))


@pytest.fixture
def say(pytestconfig: pytest.Config) -> Say:
    """Print a progress line at once, past pytest's capture."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n  {text}", end="", flush=True, file=sys.stdout)

    return line


@pytest.fixture
def torch_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of cores torch and asyncopt use; restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
