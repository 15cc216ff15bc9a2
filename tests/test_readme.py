"""The programs in the README and the documentation run, and the names in them exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asyncopt
from asyncopt import _core

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
PROGRAMS = [
    pytest.param(program, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, program in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    )
]
STAND_INS = Path(__file__).parent / "stand_ins"  # modules that the programs import; not installed
NAMES = sorted(set(re.findall(r"\basyncopt((?:\.[a-zA-Z]\w*)+)", TEXT)))


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(program: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(STAND_INS)},
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


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "choosing-a-sync.md"])
def test_tables_of_guarantees_are_the_contracts_of_the_engine(page: Path) -> None:
    row = r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$"
    table = re.findall(row, page.read_text(), re.MULTILINE)
    assert [name for name, *_ in table] == [contract["name"] for contract in _core.syncs()]
    for (_, loses, sees, waits), contract in zip(table, _core.syncs(), strict=True):
        assert loses.startswith("yes") == contract["may_lose"]
        assert (sees == "one whole version") == (not contract["may_tear"])
        assert (waits == "never") == (not contract["may_block"])
