"""Ways in which a training loop writes to parameters itself; worker processes import them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS, WIDTH = 12, 6
LR = 0.125  # a power of two: rounding is that of torch, with fused multiply-add or without


def table(kind: type[nn.Embedding | nn.EmbeddingBag] = nn.Embedding) -> nn.Module:
    """Rows with a norm of at most 1, and a layer behind them."""
    torch.manual_seed(4)
    return nn.Sequential(kind(ROWS, WIDTH, max_norm=1.0), nn.Linear(WIDTH, 3))


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices, shape (4, 1), and classes that push the rows outwards."""
    generator = torch.Generator().manual_seed(9)
    for _ in range(count):
        rows = torch.randint(ROWS, (4, 1), generator=generator)
        yield rows, rows[:, 0] % 3


class Writer:
    """Write to parameters before each step, in one of several ways."""

    def __init__(self, way: str, model: nn.Module) -> None:
        self._write: Callable[[nn.Module, int], object] = getattr(self, f"_{way}")
        self._first = copy.deepcopy(model.state_dict())
        self._mean = [param.detach().clone() for param in model.parameters()]

    @torch.no_grad()
    def __call__(self, model: nn.Module, number: int) -> None:
        self._write(model, number)

    def _max_norm(self, model: nn.Module, number: int) -> None:
        """The forward pass does."""

    def _clamp(self, model: nn.Module, number: int) -> None:
        for param in model.parameters():
            param.clamp_(-0.3, 0.3)

    def _foreach_clamp(self, model: nn.Module, number: int) -> None:
        torch._foreach_clamp_max_(list(model.parameters()), 0.2)

    def _roll_back(self, model: nn.Module, number: int) -> None:
        if number % 3 == 2:
            model.load_state_dict(self._first)

    def _reset(self, model: nn.Module, number: int) -> None:
        if number == 2:
            torch.manual_seed(8)
            nn.init.xavier_normal_(model.get_parameter("1.weight"))

    def _average(self, model: nn.Module, number: int) -> None:
        for mean, param in zip(self._mean, model.parameters(), strict=True):
            mean.lerp_(param, 0.25)
            param.copy_(mean)

    def _one_element(self, model: nn.Module, number: int) -> None:
        model.get_parameter("1.weight")[0, number % WIDTH] = 0.5

    def _assign_data(self, model: nn.Module, number: int) -> None:
        for param in model.parameters():
            param.data = param.data.clamp(-0.3, 0.3)

    def _from_vector(self, model: nn.Module, number: int) -> None:
        vector = nn.utils.parameters_to_vector(model.parameters())
        nn.utils.vector_to_parameters(vector * 0.5, model.parameters())

    def _other_optimizer(self, model: nn.Module, number: int) -> None:
        torch.optim.SGD(model.parameters(), lr=0.25).step()  # the gradients are kept


WAYS = tuple(name[1:] for name in vars(Writer) if name[0] == "_" and name[1] != "_")


def train(
    model: nn.Module, optimizer: Any, way: str, steps: int, before_write: Callable[[], object]
) -> None:
    """Steps of cross entropy; the writes lie before the forward pass."""
    write = Writer(way, model)
    for number, (rows, classes) in enumerate(batches(steps)):
        before_write()
        write(model, number)
        optimizer.zero_grad()
        F.cross_entropy(model(rows).reshape(4, 3), classes).backward()
        optimizer.step()
    before_write()
    write(model, steps)


def train_shared(worker: Any, model: nn.Module, optimizer: Any, way: str, steps: int) -> None:
    """The same in a worker; one with a device may write when nothing is on its way."""
    has_replica = optimizer.stepper.link is not None
    train(model, optimizer, way, steps, optimizer.flush if has_replica else lambda: None)


def train_alone(model: nn.Module, way: str, steps: int) -> None:
    """The same by torch alone."""
    train(model, torch.optim.SGD(model.parameters(), lr=LR), way, steps, lambda: None)
