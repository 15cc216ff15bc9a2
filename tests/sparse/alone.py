"""Programs in a separate interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import asyncopt

WITHOUT_TORCH = """
import sys, types
sys.modules["asyncopt"] = types.ModuleType("asyncopt")
sys.modules["asyncopt"].__path__ = [sys.argv[1]]
"""


def run(program: str, **environment: str) -> str:
    """Output of a program that uses only asyncopt's lower packages.

    ``import asyncopt`` imports torch, which takes longer than most such programs.
    """
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + textwrap.dedent(program), *asyncopt.__path__],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
