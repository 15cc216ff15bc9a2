"""Imports that the package needs, and errors if they are missing."""

from __future__ import annotations

import re
import runpy
import sys

import pytest

import asyncopt.sparse
from asyncopt._install import command
from asyncopt.sparse import atomic

from . import alone


@pytest.mark.parametrize(
    ("module", "missing", "message"),
    [
        (
            asyncopt.sparse,
            "sklearn",
            rf"sparse: expected scikit-learn and scipy, got: .*{re.escape(command('sparse'))}",
        ),
        (
            asyncopt.sparse,
            "scipy",
            rf"sparse: expected scikit-learn and scipy, got: .*{re.escape(command('sparse'))}",
        ),
        (
            atomic,
            "numba",
            rf"sparse\.atomic: expected numba, got: .*{re.escape(command('numba'))}",
        ),
    ],
)
def test_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, module: object, missing: str, message: str
) -> None:
    """By the module's own code, run once more."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"^asyncopt\.{message}"):
        runpy.run_path(str(vars(module)["__file__"]))


def test_a_custom_loss_needs_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    remedy = re.escape(command("numba"))
    with pytest.raises(ImportError, match=rf"^CustomLoss: expected numba, got: .*{remedy}"):
        asyncopt.sparse.custom(lambda prediction, target: (0.0, 0.0))


@pytest.mark.slow
def test_numba_is_imported_when_it_is_needed() -> None:
    program = """
    import asyncopt.sparse
    print(asyncopt.sparse.LinearClassifier.__name__, {"numba", "torch"} & set(sys.modules))
    """
    assert alone.run(program) == "LinearClassifier set()\n"
