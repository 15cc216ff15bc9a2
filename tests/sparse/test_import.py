"""What importing the package needs, and says where it is missing."""

from __future__ import annotations

import runpy
import sys

import pytest

import asyncopt.sparse
from asyncopt.sparse import atomic

from . import alone


@pytest.mark.parametrize(
    ("module", "missing", "message"),
    [
        (
            asyncopt.sparse,
            "sklearn",
            "sparse: expected scikit-learn and scipy, got: .*'asyncopt.spa",
        ),
        (
            asyncopt.sparse,
            "scipy",
            "sparse: expected scikit-learn and scipy, got: .*'asyncopt.spar",
        ),
        (
            atomic,
            "numba",
            r"sparse\.atomic: expected numba, got: .*pip install 'asyncopt\[numba\]'",
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
    with pytest.raises(
        ImportError, match=r"^CustomLoss: expected numba, got: .*pip install 'asyncopt\[numba\]'"
    ):
        asyncopt.sparse.custom(lambda prediction, target: (0.0, 0.0))


@pytest.mark.slow
def test_numba_is_imported_when_it_is_needed() -> None:
    program = """
    import asyncopt.sparse
    print(asyncopt.sparse.LinearClassifier.__name__, {"numba", "torch"} & set(sys.modules))
    """
    assert alone.run(program) == "LinearClassifier set()\n"
