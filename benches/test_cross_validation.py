"""Folds side by side, beside other ways to train them on the same cores.

Every contender makes a whole cross-validation in its turn, with the start of the processes that it
needs; "independent" is the ceiling: a program for each core, nothing shared. Folds, seeds, batches
and loop are the same in all but skorch, so accuracies must be equal, and are compared.

"call" is what a user waits for; "training" leaves the start of processes out.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benches.conftest import Say
from benches.interleave import Comparison, Pair, interleave, record, replay
from benches.memory import anonymous_bytes
from benches.peers.folds import FOLDS, Case, Turn
from benches.peers.turns import Stage

pytestmark = pytest.mark.benchmark(timer=replay)

OURS, CEILING, SERIAL, ONE = "asyncopt", "independent", "serial", "one fold"
GOALS = {CEILING: 0.95, SERIAL: 1.0, "joblib": 1.0, "skorch": 1.0}
CONTENDERS = [OURS, *GOALS]
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        for name in CONTENDERS:
            stage.start(name, "benches.peers.folds", (name,))
        for name in CONTENDERS:
            stage.await_workers(name, 1)
        yield stage


def take_turn(stage: Stage, name: str, case: Case) -> Turn:
    answer: Turn
    (answer,) = stage.turn(name, json.dumps([case.epochs, case.padding]))
    return answer


@pytest.fixture(scope="module")
def turns(stage: Stage, quick: bool) -> tuple[dict[str, list[Turn]], Comparison]:
    """Every contender's turns, and the comparison of their calls in seconds per image."""
    case = Case(epochs=1 if quick else 16)
    taken: dict[str, list[Turn]] = {name: [] for name in CONTENDERS}

    def sampler(name: str) -> Any:
        def sample() -> float:
            answer = take_turn(stage, name, case)
            taken[name].append(answer)
            return answer.call / answer.images

        return sample

    samplers = {name: sampler(name) for name in CONTENDERS}
    for sample in samplers.values():
        sample()  # warm-up
    for answers in taken.values():
        answers.clear()
    return taken, interleave(samplers, 1 if quick else 9)


def rows_of(taken: dict[str, list[Turn]], comparison: Comparison) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "images_per_second": 1 / comparison.median(name),
            "test_accuracy": sum(taken[name][0].accuracies) / FOLDS,
        }
        for name in comparison.samples
    }


def check_accuracies(taken: dict[str, list[Turn]], quick: bool) -> None:
    """One thread or two, rounding differs; the same with the same number of threads."""
    ours = taken[OURS][0].accuracies
    for name, answers in taken.items():
        for answer in answers:
            if name in (OURS, CEILING, "joblib"):
                assert answer.accuracies == ours, name
            elif not quick:
                assert sum(answer.accuracies) / FOLDS == pytest.approx(sum(ours) / FOLDS, abs=0.02)
    if not quick:
        assert min(ours) > 0.9


@pytest.mark.parametrize("what", ["call", "training"])
def test_cross_validation(
    benchmark: Any,
    turns: tuple[dict[str, list[Turn]], Comparison],
    quick: bool,
    say: Say,
    what: str,
) -> None:
    taken, comparison = turns
    check_accuracies(taken, quick)
    if what == "training":
        samples = {
            name: tuple(answer.training / answer.images for answer in answers if answer.training)
            for name, answers in taken.items()
            if all(answer.training for answer in answers)
        }
        comparison = Comparison(samples, comparison.others)
    rows = rows_of(taken, comparison)
    pairs = [Pair(OURS, name, GOALS[name]) for name in comparison.samples if name != OURS]
    images = taken[OURS][0].images
    case = {"what": what, "model": f"LeNet, 4,000 images, {FOLDS} folds", "images": images}
    lines = record(benchmark, comparison, pairs, suite="folds", case=case, rows=rows)
    for name, row in rows.items():
        say(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    for line in lines:
        say(f"{what}: {line}")


class Peak(threading.Thread):
    """The most memory that one contender's processes need at once, in bytes, while this runs.

    Anonymous memory by proportional share, and what grows in memory that processes share (files in
    /dev/shm too, which belong to no process). Program files are left out: they are all the same.

    Args:
        others: ids of descendants of this process that are none of the contender's.
    """

    def __init__(self, others: set[int]) -> None:
        super().__init__(daemon=True)
        self._others = others
        self._over = threading.Event()
        self._before = shared_bytes()
        self.most = 0

    def run(self) -> None:
        while not self._over.wait(0.05):
            own = descendants() - self._others
            private = sum(map(anonymous_bytes, own))
            self.most = max(self.most, private + shared_bytes() - self._before)

    def end(self) -> int:
        self._over.set()
        self.join()
        return self.most


def descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def shared_bytes() -> int:
    """Bytes of shared memory in use on the whole machine."""
    return next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("Shmem:")
    )


def peak_of(name: str, case: Case, folder: Path) -> tuple[int, Turn]:
    """The most memory of a contender that is started for this turn alone.

    Memory that a process has given back may stay its own, so each case needs a process of its own.
    """
    folder.mkdir()
    others = descendants()
    with Stage(folder) as stage:
        stage.start(name, "benches.peers.folds", (name,))
        stage.await_workers(name, 1)
        peak = Peak(others)
        peak.start()
        try:
            answer = take_turn(stage, name, case)
        finally:
            most = peak.end()
    return most, answer


def test_memory(benchmark: Any, quick: bool, say: Say, tmp_path: Path) -> None:
    """Growth of the peak per byte of data: 1 if there is one copy."""
    padding = (256 if quick else 1024) * MEBIBYTE
    names = [OURS, ONE] if quick else [*CONTENDERS, ONE]
    growth, samples = {}, {}
    for number, name in enumerate(names):
        little, _ = peak_of(name, Case(1, MEBIBYTE), tmp_path / f"{number}-little")
        much, answer = peak_of(name, Case(1, padding), tmp_path / f"{number}-much")
        growth[name] = (much - little) / (padding - MEBIBYTE)
        samples[name] = (answer.call,)
        say(f"{name}: {much / MEBIBYTE:,.0f} MiB at most, {growth[name]:.2f} x the data")
    rows = {name: {"data_copies": growth[name]} for name in growth}
    case = {"what": "memory", "data": f"{padding // MEBIBYTE} MiB"}
    record(benchmark, Comparison(samples, 0.0), [], suite="folds", case=case, rows=rows)
    assert growth[OURS] < 1.2 * growth[ONE]
