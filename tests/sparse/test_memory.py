"""Too little memory for a linear model is an error before any is taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncopt import SegmentError, _core
from asyncopt._limits import Memory
from asyncopt.sparse import LinearRegressor, training


def mapped() -> int:
    """Bytes of the models of this process."""
    maps = Path("/proc/self/maps").read_text()
    found = re.findall(r"(?m)^(\w+)-(\w+) .*memfd:asyncopt-linear", maps)
    return sum(int(end, 16) - int(begin, 16) for begin, end in found)


def test_a_fit_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    needed: list[int] = []

    def bytes_are_left(missing: int) -> None:
        def check(**shape: Any) -> int:
            needed.append(count(**shape))
            left = Memory(needed[-1] - missing, "in this test")
            monkeypatch.setattr(training, "available_memory", lambda: left)
            return needed[-1]

        count = bytes_needed
        monkeypatch.setattr(_core.LinearTrainer, "bytes_needed", check)

    bytes_needed = _core.LinearTrainer.bytes_needed
    X, y = np.eye(5000, dtype=np.float32), np.arange(5000.0)
    model = LinearRegressor(n_threads=2, max_iter=1, tol=None)
    bytes_are_left(missing=1)
    with pytest.raises(SegmentError, match=r"^X: expected .* got a model of [\d,]+ bytes"):
        model.fit(X, y)
    assert not hasattr(model, "coef_")
    assert mapped() == 0
    bytes_are_left(missing=0)
    model.fit(X, y)
    assert needed[0] == needed[1] >= 4 * 5000


@pytest.mark.parametrize("step", sorted({step for _, step, _ in _core.linear_kernels()}))
@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_counted_is_what_is_taken(step: str, workers: int) -> None:
    (loss, *_) = (loss for loss, other, _ in _core.linear_kernels() if other == step)
    shape: dict[str, Any] = {
        "loss": loss,
        "step": step,
        "columns": 5000,
        "workers": workers,
        "examples": 100,
    }
    before = mapped()
    trainer = _core.LinearTrainer(**shape, sync="hogwild", custom=int(loss == "custom"))
    needed = _core.LinearTrainer.bytes_needed(**shape, sync="hogwild")
    assert mapped() - before == needed
    del trainer
