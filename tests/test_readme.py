"""What the README shows is there, and runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import asyncopt

README = (Path(__file__).parents[1] / "README.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
NAMES = sorted(set(re.findall(r"\basyncopt((?:\.[a-zA-Z]\w*)+)", README)))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.splitlines()[0])
def test_programs(program: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout != ""


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    found = asyncopt
    for part in name.split(".")[1:]:
        found = getattr(found, part)


def test_something_was_found() -> None:
    assert PROGRAMS
    assert len(NAMES) > 5
