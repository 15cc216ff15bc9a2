"""Import of the package: lazy parts, and the error if the engine is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_a_missing_engine_is_named_with_the_remedy() -> None:
    program = "import sys; sys.modules['asyncopt._core'] = None; import asyncopt"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: asyncopt._core: expected the compiled engine")
    assert "pip install ." in last


@pytest.mark.slow
def test_parts_are_imported_when_they_are_first_used() -> None:
    program = """if True:
        import sys
        import asyncopt
        parts = "asyncopt.distributed", "asyncopt.simulate", "asyncopt.sparse", "asyncopt.studies"
        assert not {*parts, "sklearn", "numba"} & {*sys.modules}
        asyncopt.studies.compare
        assert not {"matplotlib", "pandas", "rich", "typer"} & {*sys.modules}
        asyncopt.sparse.LinearClassifier, asyncopt.distributed.LocalSteps
        assert "numba" not in sys.modules
        asyncopt.sparse.atomic.add, asyncopt.simulate
        for module in asyncopt, asyncopt.sparse:
            try:
                module.nothing
            except AttributeError as error:
                print(error)
    """
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "module 'asyncopt' has no attribute 'nothing'",
        "module 'asyncopt.sparse' has no attribute 'nothing'",
    ]
