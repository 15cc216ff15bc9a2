"""Steps of an embedding table with sparse gradients, beside torch.optim's on the same table.

A million rows of 64, of which a batch names 4,096, drawn by the law of clicks (weight 1 / rank), so
that hot rows come often and cold ones are far apart in memory. "step" is the optimizer alone; the
gradient is made anew before each, off the clock, as a training loop does. "iteration" is forward,
backward and step together.

Row-wise Adagrad is measured beside FBGEMM, which fuses backward and update, where that is installed
(version 1.8.0 fits torch 2.13).

`sparse_updates="dense"` is measured beside its equivalent, torch's AdamW on dense gradients,
and beside our own default, which skips rows that a batch does not name. It catches up before the
forward pass, so only whole iterations are timed. A row is named again within 64 steps; its
missed updates are replayed one by one.

All tables train on the same batches; equivalent ones must end with equal values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

import asyncopt
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, Timed, interleave, record, replay

pytestmark = pytest.mark.benchmark(timer=replay)

ROWS, WIDTH, BATCH = 1_000_000, 64, 4096
BATCHES = 64  # the loop goes round: more rows than any cache holds
OURS, TORCH, FBGEMM = "asyncopt", "torch", "FBGEMM"
DENSE, TOUCHED = "torch, dense gradient", "asyncopt, touched rows"

# eps: torch's SparseAdam divides it by the bias correction, its Adam and ours do not.
CASES: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    "SparseAdam": (asyncopt.Adam, torch.optim.SparseAdam, {"lr": 1e-3, "eps": 1e-12}),
    "Adagrad": (asyncopt.Adagrad, torch.optim.Adagrad, {"lr": 1e-2}),
    "SGD": (asyncopt.SGD, torch.optim.SGD, {"lr": 1e-2}),
}
GOALS = {("SparseAdam", "step"): 10.0}
FBGEMM_GOAL = 2.0


@lru_cache(maxsize=1)
def batches(rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = 1.0 / torch.arange(1, rows + 1)
    place = torch.randperm(rows, generator=generator)  # hot rows lie anywhere
    return [
        place[torch.multinomial(weights, BATCH, replacement=True, generator=generator)]
        for _ in range(BATCHES)
    ]


class Training:
    """A table that is looked up in, batch by batch; `weight` is its values."""

    weight: Tensor

    def __init__(self, rows: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.start = torch.randn(rows, WIDTH, generator=generator)
        self.target = torch.randn(BATCH, WIDTH, generator=generator)
        self.batches = batches(rows)
        self.taken = 0

    def look_up(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def gradient(self) -> None:
        rows = self.batches[self.taken % BATCHES]
        self.taken += 1
        (self.look_up(rows) * self.target).sum().backward()

    def iteration(self) -> None:
        self.gradient()

    def finish(self) -> None:
        """Complete pending updates, so that `weight` can be read."""


class TorchTraining(Training):
    """A table trained by an optimizer with torch's interface."""

    def __init__(
        self, cls: type[Any], options: dict[str, Any], rows: int, sparse: bool = True
    ) -> None:
        super().__init__(rows)
        self.table = torch.nn.Embedding(rows, WIDTH, sparse=sparse, _weight=self.start)
        self.weight = self.table.weight
        self.optimizer = cls([self.weight], **options)

    def look_up(self, rows: Tensor) -> Tensor:
        found: Tensor = self.table(rows)
        return found

    def gradient(self) -> None:
        self.optimizer.zero_grad()
        super().gradient()

    def step(self) -> None:
        self.optimizer.step()

    def iteration(self) -> None:
        self.gradient()
        self.step()


class OwingTraining(TorchTraining):
    """Lazy dense updates: rows catch up before they are used."""

    def __init__(self, cls: type[Any], options: dict[str, Any], rows: int) -> None:
        super().__init__(cls, {**options, "sparse_updates": "dense"}, rows)
        self.optimizer.catch_up_before(self.table)

    def finish(self) -> None:
        self.optimizer.catch_up()


class FbgemmTraining(Training):
    """FBGEMM, whose backward pass updates the table."""

    def __init__(self, options: dict[str, Any], rows: int) -> None:
        from fbgemm_gpu import split_table_batched_embeddings_ops_common as common
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
        from fbgemm_gpu.split_embedding_configs import EmbOptimType

        super().__init__(rows)
        place = (common.EmbeddingLocation.HOST, training.ComputeDevice.CPU)
        self.table = training.SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, WIDTH, *place)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=options["lr"],
            eps=options["eps"],
            pooling_mode=common.PoolingMode.NONE,
        )
        (self.weight,) = self.table.split_embedding_weights()
        self.weight.copy_(self.start)
        self.offsets = torch.arange(BATCH + 1)

    def look_up(self, rows: Tensor) -> Tensor:
        found: Tensor = self.table(rows, self.offsets)
        return found


def compare(
    benchmark: Any,
    say: Say,
    quick: bool,
    timed: Mapping[str, Timed],
    trainings: Mapping[str, Training],
    pairs: Sequence[Pair],
    case: dict[str, Any],
) -> None:
    """Measure, record, and check that the tables of the first pair end alike."""
    comparison = interleave(timed, rounds=3 if quick else 3 * ROUNDS)
    rows: dict[str, dict[str, Any]] = {name: {} for name in trainings}
    for line in record(benchmark, comparison, pairs, suite="embedding", case=case, rows=rows):
        say(line)
    both = (trainings[pairs[0].of], trainings[pairs[0].over])
    behind, ahead = sorted(both, key=lambda training: training.taken)
    while behind.taken < ahead.taken:
        behind.iteration()
    for training in both:
        training.finish()
    # A row that a batch names hundreds of times is rounded as often by torch's SGD, which adds its
    # gradients to the weights one by one.
    torch.testing.assert_close(behind.weight, ahead.weight, rtol=2e-3, atol=1e-3)


def rows_of(quick: bool) -> int:
    return ROWS // 10 if quick else ROWS


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["step", "iteration"])
@pytest.mark.parametrize("case", CASES)
def test_embedding(
    benchmark: Any,
    case: str,
    what: str,
    threads: int,
    torch_threads: Callable[[int], None],
    quick: bool,
    say: Say,
) -> None:
    torch_threads(threads)
    ours, theirs, options = CASES[case]
    rows = rows_of(quick)
    trainings = {
        OURS: TorchTraining(ours, options, rows),
        TORCH: TorchTraining(theirs, options, rows),
    }
    timed = {
        name: Timed(t.step, before=t.gradient) if what == "step" else Timed(t.iteration)
        for name, t in trainings.items()
    }
    pair = Pair(OURS, TORCH, GOALS.get((case, what)))
    facts = {"rule": case, "what": what, "threads": threads}
    compare(benchmark, say, quick, timed, trainings, [pair], facts)


@pytest.mark.parametrize("threads", [1, 2])
def test_as_dense(
    benchmark: Any,
    threads: int,
    torch_threads: Callable[[int], None],
    quick: bool,
    say: Say,
) -> None:
    torch_threads(threads)
    options = {"lr": 1e-3, "weight_decay": 1e-2}
    rows = rows_of(quick)
    trainings = {
        OURS: OwingTraining(asyncopt.AdamW, options, rows),
        DENSE: TorchTraining(torch.optim.AdamW, {**options, "fused": True}, rows, sparse=False),
        TOUCHED: TorchTraining(asyncopt.AdamW, options, rows),
    }
    pairs = [Pair(OURS, DENSE), Pair(OURS, TOUCHED)]
    timed = {name: Timed(training.iteration) for name, training in trainings.items()}
    facts = {"rule": "AdamW, as dense", "what": "iteration", "threads": threads}
    compare(benchmark, say, quick, timed, trainings, pairs, facts)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_rowwise(
    benchmark: Any,
    threads: int,
    torch_threads: Callable[[int], None],
    quick: bool,
    say: Say,
) -> None:
    pytest.importorskip("fbgemm_gpu", reason="pip install --no-deps fbgemm-gpu-cpu==1.8.0")
    torch_threads(threads)
    options = {"lr": 1e-2, "eps": 1e-8}
    rows = rows_of(quick)
    trainings = {
        OURS: TorchTraining(asyncopt.Adagrad, {**options, "rowwise": True}, rows),
        FBGEMM: FbgemmTraining(options, rows),
    }
    timed = {name: Timed(training.iteration) for name, training in trainings.items()}
    facts = {"rule": "row-wise Adagrad", "what": "iteration", "threads": threads}
    compare(benchmark, say, quick, timed, trainings, [Pair(OURS, FBGEMM, FBGEMM_GOAL)], facts)
