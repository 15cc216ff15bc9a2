"""The short programs of examples/ do what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(program: str, *arguments: str) -> str:
    """Output of a program; warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / program), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_log_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert re.search(r"accuracy (0\.9|1\.0)", run("log_metrics.py", str(path)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    updates = [line["updates"] for line in lines]
    assert updates == sorted(updates)
    assert updates[-1] == 100 * 29  # epochs x batches of 64 of 1,797 images
    assert lines[-1]["loss/all"] < 0.1
