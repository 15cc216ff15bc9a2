"""Tables, plots and the report of a cross-validation."""

from __future__ import annotations

import builtins
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncopt.tasks import CrossValidation, Epoch, Fold
from asyncopt.tasks.cpu import CpuUse, CpuWatch

ACCURACIES = (0.5, 0.7, 0.9)


def made_up(**changes: Any) -> CrossValidation:
    """Three folds on two workers, of which an earlier call trained the first."""
    folds = tuple(
        Fold(
            number=number,
            scores={"loss": 1.0 + number, "accuracy": accuracy},
            epochs=tuple(
                Epoch(epoch, 0.1, 2.0 / epoch, {"loss": 1.0 + number, "accuracy": accuracy})
                for epoch in (1, 2)
            ),
            best=2,
            train_examples=20,
            test_examples=10,
            begin=math.nan if number == 0 else 0.5 * number,
            seconds=1.5,
            worker=number % 2,
            attempts=1,
        )
        for number, accuracy in enumerate(ACCURACIES)
    )
    samples = [(0.0, 10.0, 20.0), (1.0, 11.0, 20.5), (3.0, 13.0, 20.5)]
    fine: dict[str, Any] = {
        "folds": folds,
        "seconds": 3.25,
        "workers": 2,
        "cpu": CpuUse((0, 3), samples),
        "directory": None,
    }
    return CrossValidation(**fine | changes)


def test_mean_and_spread() -> None:
    result = made_up()
    assert result.mean == pytest.approx({"loss": 2.0, "accuracy": 0.7})
    assert result.std == pytest.approx({"loss": 1.0, "accuracy": 0.2})
    assert math.isnan(made_up(folds=result.folds[:1]).std["loss"])


def test_use_of_the_cores() -> None:
    use = made_up().cpu
    np.testing.assert_array_equal(use.times, [1, 3])
    np.testing.assert_array_equal(use.busy, [[1, 0.5], [1, 0]])
    assert use.mean == pytest.approx((2.0 + 1.0 + 0.5) / 6)
    assert math.isnan(CpuUse((0,), []).mean)


def test_the_watch_thins_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("asyncopt.tasks.cpu.core_seconds", lambda cores: dict.fromkeys(cores, now))
    watch = CpuWatch(interval=1.0)
    for _ in range(5000):
        now += 1.0
        watch()
    use = watch.use()
    assert 1000 <= len(use.times) <= 2000
    np.testing.assert_allclose(use.busy, 1)
    assert use.times[-1] > 4990


EXPECTED = [
    "fold             loss         accuracy   epoch  seconds   worker",
    "0              1.0000           0.5000  2 of 2      1.5  earlier",
    "1              2.0000           0.7000  2 of 2      1.5        1",
    "2              3.0000           0.9000  2 of 2      1.5        0",
    "mean  2.0000 ± 1.0000  0.7000 ± 0.2000              3.2",
]


def test_the_table_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_rich(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "asyncopt.report.terminal", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert str(made_up()).splitlines() == EXPECTED


def test_the_table_with_rich() -> None:
    lines = [line.split() for line in made_up().table().splitlines()]
    for line in EXPECTED:
        assert line.split() in lines
    assert "─" in made_up().table()


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_plots(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"folds{suffix}"
    made_up().plot(path)
    assert path.read_bytes().startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")


@pytest.mark.parametrize("cpu", [made_up().cpu, CpuUse((0, 1), []), CpuUse((), [])])
def test_the_report(tmp_path: Path, cpu: CpuUse) -> None:
    made_up(cpu=cpu).report(tmp_path / "folds.html")
    page = (tmp_path / "folds.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert "0.7000 ± 0.2000" in page


def test_models_need_a_directory() -> None:
    with pytest.raises(ValueError, match="directory: expected one that holds the folds' models"):
        made_up().state_dict(0)
    with pytest.raises(ValueError, match="fold: expected 0 to 2, got 3"):
        made_up(directory=Path("nowhere")).state_dict(3)
