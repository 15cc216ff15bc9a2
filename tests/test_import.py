"""What importing the package does, and says when it cannot."""

from __future__ import annotations

import subprocess
import sys


def test_a_missing_engine_is_named_with_the_remedy() -> None:
    program = "import sys; sys.modules['asyncopt._core'] = None; import asyncopt"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: asyncopt._core: expected the compiled engine")
    assert "pip install ." in last
