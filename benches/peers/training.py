"""Model, data, order of batches, loss and turns, common to all contenders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asyncopt.run.batches import Batches as NumberedBatches
from asyncopt.run.columns import from_columns
from asyncopt.run.sources import Supply
from asyncopt.studies.training.networks import Mnist, lenet
from benches.peers.turns import Turns

BATCH = 64
LR = 0.05
"""Half of what one worker can take: at 0.1 with two workers, whose gradients are late by one push,
9 of 40 runs collapsed, under a mutex too; at 0.05 none of 27 did."""
SEED = 0
EPOCHS_PER_TURN = 4
"""So many that all contenders have learned when a quick comparison ends, at this rate too."""

Batches = Iterable[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Trained:
    """One worker's turn: images trained on between two readings of the machine-wide clock."""

    begin: float
    end: float
    images: int


@dataclass(frozen=True)
class Score:
    """Mean cross entropy on the training images; share of right answers on the test images."""

    train_loss: float
    test_accuracy: float


def model() -> nn.Module:
    """The network, initialized alike in every contender."""
    torch.manual_seed(SEED)
    return lenet()


def data() -> tuple[Tensor, Tensor]:
    """Training images, float32 (4000, 1, 28, 28), and labels, int64 (4000,)."""
    return Mnist().load(SEED).train


def shard(rank: int, workers: int, device: torch.device | str = "cpu") -> Callable[[int], Batches]:
    """Batches of worker `rank` in a turn: what `Worker.batches` gives with the turn as seed.

    `drop_last`: with two workers both have 31 batches an epoch, which DDP needs.
    """

    def batches(turn: int) -> Batches:
        supply = Supply(from_columns(data()), BATCH, shuffle=True, drop_last=True)
        numbered = NumberedBatches(supply, EPOCHS_PER_TURN, seed=turn, every=workers)
        numbers = range(rank, numbered.total, workers)
        taken = (numbered.fetch(number) for number in numbers if not numbered.is_empty(number))
        return (tuple(tensor.to(device) for tensor in batch) for batch in taken)

    return batches


def ignore(loss: Tensor) -> None:
    """Discard a loss."""


def take_turns(
    address: str,
    rank: int,
    network: nn.Module,
    opt: torch.optim.Optimizer,
    batches: Callable[[int], Batches],
    seen: Callable[[Tensor], object] = ignore,
    settle: Callable[[], object] = lambda: None,
) -> None:
    """Main loop of a worker: train on the command "train", evaluate on "score".

    `seen` gets the loss of every batch; `settle` is called before a score.
    """
    turns = Turns(address, rank)
    taken = 0
    for command in turns:
        if command == "train":
            turns.reply(train(network, opt, batches(taken), seen))
            taken += 1
        else:
            settle()
            turns.reply(score(network))


def train(
    network: nn.Module,
    opt: torch.optim.Optimizer,
    batches: Batches,
    seen: Callable[[Tensor], object],
) -> Trained:
    """The training loop that is measured."""
    images = 0
    begin = time.perf_counter()
    for x, y in batches:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        opt.step()
        seen(loss)
        images += len(x)
    if loss.is_cuda:
        torch.cuda.synchronize()
    return Trained(begin, time.perf_counter(), images)


def score(network: nn.Module) -> Score:
    # DDP's own forward may wait for the other process.
    if isinstance(network, nn.parallel.DistributedDataParallel):
        network = network.module
    split = Mnist().load(SEED)
    device = next(network.parameters()).device
    images, labels, test_images, test_labels = (t.to(device) for t in (*split.train, *split.test))
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(network(images), labels)
        right = network(test_images).argmax(dim=1) == test_labels
    return Score(float(loss), float(right.float().mean()))


def use_core(rank: int) -> None:
    """One thread, on the core that belongs to the rank."""
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})


def spawn(worker: Callable[..., object], arguments: tuple[Any, ...], processes: int) -> None:
    """Run `worker(rank, *arguments)` in that many processes."""
    context = torch.multiprocessing.get_context("spawn")  # knows how to hand over shared tensors
    started = [
        context.Process(target=worker, args=(rank, *arguments), daemon=True)
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise SystemExit(f"workers ended with {[process.exitcode for process in started]}")
