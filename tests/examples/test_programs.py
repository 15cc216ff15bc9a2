"""The short programs of examples/ print the documented results."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.slow


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A program under way; warnings are errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / program), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: str, *arguments: str) -> str:
    """Output of a program."""
    with start(program, *arguments) as process:
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def number(pattern: str, output: str) -> float:
    """The number after some words."""
    found = re.search(rf"{pattern} (-?[\d.]+)", output)
    assert found, output
    return float(found[1])


def test_mnist() -> None:
    assert number("accuracy", run("mnist.py")) > 0.9


def test_recommender() -> None:
    """A constant has 1.06, biases alone about 0.91."""
    assert number("on held-out ratings", run("recommender.py")) < 0.95


def test_text_classification() -> None:
    output = run("text_classification.py")
    most = number("most frequent library has", output)
    assert number("accuracy on held-out docstrings", output) > most + 0.3


def test_actor_critic() -> None:
    """A random walk has -0.6."""
    assert number("at the end", run("actor_critic.py")) > 0.5


def test_cross_validate(tmp_path: Path) -> None:
    output = run("cross_validate.py", str(tmp_path / "folds.html"))
    mean = re.search(r"mean +[\d.]+ ± [\d.]+ +([\d.]+)", output)
    assert mean, output
    assert float(mean[1]) > 0.95
    assert "<svg" in (tmp_path / "folds.html").read_text(encoding="utf-8")


def test_resume(tmp_path: Path) -> None:
    """None of the 100 x 113 updates is missing, and those of whole batches are not repeated."""
    path = tmp_path / "run"
    with start("resume.py", str(path)) as process:
        deadline = time.monotonic() + 120
        while not list(path.glob("checkpoint-*")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    output = run("resume.py", str(path))
    assert number("last start,", output) == 100 * 113


def test_custom_loss() -> None:
    output = run("custom_loss.py")
    of = "largest error of a coefficient"
    assert number(f"log-cosh: {of}", output) < 0.05 < number(f"squared: {of}", output)


def test_log_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert number("accuracy", run("log_metrics.py", str(path))) > 0.95
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    updates = [line["updates"] for line in lines]
    assert updates == sorted(updates)
    assert updates[-1] == 100 * 29  # epochs x batches of 64 of 1,797 images
    assert lines[-1]["loss/all"] < 0.1
