"""TensorBoard: files read back by its own reader."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncopt._install import command
from asyncopt.run.telemetry.tensorboard import TensorBoard
from tests.run.watched import Watched


def write(run: Watched, folder: Path) -> None:
    """Two seconds of a run, a look at each."""
    board = TensorBoard(folder, interval=1.0)
    board.start(run.view)
    for second in (1, 2):
        run.elapsed = float(second)
        run.sit(0, 2**22 + 1)
        run.sit(1, 2**22 + 2)
        run.stores[0].push(1, staleness=2, times=30 * second)
        run.stores[0].push(2, staleness=5, times=10)
        run.board.log(0, 1.0 / second)
        run.restarts = [0, second]
        board.tick(0.0)
    board.end(None)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """A finished run's events."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(Watched(workers=2), tmp_path)
    return EventAccumulator(str(tmp_path), size_guidance={"histograms": 10}).Reload()


def series(read: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_scalars_are_read_back(read: Any) -> None:
    assert series(read, "updates_per_second/worker_0") == [(40, 30.0), (110, 60.0)]
    assert series(read, "updates_per_second/all") == [(40, 40.0), (110, 70.0)]
    assert series(read, "loss/worker_0") == [(40, 1.0), (110, 0.5)]
    assert series(read, "restarts/worker_1") == [(40, 1.0), (110, 2.0)]
    assert series(read, "staleness_p99/all") == [(40, 5.0), (110, 5.0)]
    tags = read.Tags()["scalars"]
    assert "loss/worker_1" not in tags  # it logged none
    assert any(tag.startswith("core_use/core_") for tag in tags)


def test_histograms_are_read_back(read: Any) -> None:
    first, second = read.Histograms("staleness/all")
    value = second.histogram_value
    assert second.step == 110
    assert (value.num, value.sum, value.min, value.max) == (70, 170, 2, 5)
    counts = dict(zip(value.bucket_limit, value.bucket, strict=True))
    assert {limit: count for limit, count in counts.items() if count} == {2.5: 60, 5.5: 10}
    assert first.histogram_value.num == 40


def test_without_tensorboard_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = ("tensorboard", "torch.utils.tensorboard")
    for name in [name for name in sys.modules if name.startswith(loaded)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    remedy = re.escape(command("telemetry"))
    with pytest.raises(ModuleNotFoundError, match=rf"log_dir: .*{remedy}"):
        TensorBoard(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        TensorBoard(tmp_path / "file" / "runs")
