"""Scores of folds cover all held-out examples; schedules and early stopping use them."""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ReduceLROnPlateau

from asyncopt.errors import TaskError
from asyncopt.tasks import CrossValidation, cross_validate
from asyncopt.tasks.scoring import score

from . import jobs
from .reference import validate

EXAMPLES = 700  # held out in each of two folds: more than a batch of them, and no multiple
HALVES = [(range(EXAMPLES), range(EXAMPLES, 2 * EXAMPLES))]


@pytest.mark.parametrize("kind", ["weighted", "with an ignored class", "sum"])
def test_a_loss_is_that_of_one_pass(kind: str, tmp_path: Path) -> None:
    """The classes come in order, so that batches of those held out are of unlike weight."""
    loss = {
        "weighted": nn.CrossEntropyLoss(torch.tensor([1.0, 20.0, 0.1])),
        "with an ignored class": nn.CrossEntropyLoss(ignore_index=0),
        "sum": nn.CrossEntropyLoss(reduction="sum"),
    }[kind]
    x = torch.randn(2 * EXAMPLES, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(2 * EXAMPLES) % EXAMPLES * 3 // EXAMPLES
    result = validate(
        data=(x, y), folds=HALVES, loss=loss, epochs=2, directory=tmp_path, patience=1
    )
    (fold,) = result.folds
    model = jobs.make_model()
    model.load_state_dict(result.state_dict(0))
    model.eval()
    with torch.no_grad():
        expected = float(loss(model(x[EXAMPLES:]), y[EXAMPLES:]))
    assert fold.scores["loss"] == pytest.approx(expected, rel=1e-5)


Pair = namedtuple("Pair", "logits extra")
SHAPES: dict[str, tuple[Any, Any]] = {
    "tuple": (lambda out: (out, None), lambda outputs: outputs[0]),
    "named tuple": (lambda out: Pair(out, {"twice": 2 * out}), lambda outputs: outputs.logits),
    "list": (lambda out: [[out]], lambda outputs: outputs[0][0]),
    "dict": (lambda out: {"logits": out}, lambda outputs: outputs["logits"]),
}


class Shaped(nn.Linear):
    """Its outputs come as ``shape`` makes them."""

    def __init__(self, shape: Any) -> None:
        super().__init__(6, 3)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(super().forward(x))


def batches() -> list[tuple[Tensor, Tensor]]:
    dice = torch.Generator().manual_seed(0)
    sizes = (4, 4, 3)
    return [(torch.randn(size, 6, generator=dice), torch.arange(size) % 3) for size in sizes]


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_of_any_structure_are_joined(shape: str) -> None:
    make, read = SHAPES[shape]
    model = Shaped(make)
    found = score(model, batches(), 11, lambda out, y: cross_entropy(read(out), y), {})
    x, y = (torch.cat(column) for column in zip(*batches(), strict=True))
    with torch.no_grad():
        assert found["loss"] == pytest.approx(float(cross_entropy(read(model(x)), y)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda out: out.mean(), r"^outputs: expected a batch's .* got shape \(\); let"),
        (lambda out: (out[None],), r"^outputs\[0\]: expected a batch's .* got shape \(1, 4, 3\)"),
        (lambda out: {"a": 3.0}, r"^outputs\['a'\]: expected tensors, or .* got float; let"),
    ],
)
def test_outputs_that_cannot_be_joined_are_refused(shape: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        score(Shaped(shape), batches(), 11, jobs.mean_output, {})


def slope(**arguments: Any) -> CrossValidation:
    """The weight of `jobs.Slope` under one batch an epoch."""
    fine: dict[str, Any] = {
        "make_model": jobs.Slope,
        "data": (torch.zeros(8, 1), torch.zeros(8)),
        "folds": [(range(4), range(4, 8))],
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
        "metrics": {},
        "workers": 1,
        "preload": ["torch._dynamo"],
    }
    return cross_validate(**fine | arguments)


@pytest.mark.slow
def test_a_plateau_is_one_of_scores() -> None:
    """Losses get lower in training and higher on the examples held out, of every third epoch."""
    result = slope(
        loss=jobs.overfit,
        scheduler=functools.partial(ReduceLROnPlateau, patience=2),
        epochs=24,
        evaluate_every=3,
    )
    rates = [epoch.lr for epoch in result.folds[0].epochs]
    assert rates == pytest.approx([0.1] * 12 + [0.01] * 9 + [0.001] * 3)


def test_a_plateau_is_of_losses() -> None:
    with pytest.raises(TaskError, match="expected ReduceLROnPlateau with mode='min'"):
        slope(loss=jobs.overfit, scheduler=functools.partial(ReduceLROnPlateau, mode="max"))


def test_a_plateau_has_no_batches() -> None:
    with pytest.raises(TaskError, match="schedule_by: expected 'epoch' with ReduceLROnPlateau"):
        slope(loss=jobs.overfit, scheduler=ReduceLROnPlateau, schedule_by="batch")


def test_nan_is_never_the_best() -> None:
    result = slope(loss=jobs.Scripted([math.nan, 3, math.nan, 2, 4, 5]), epochs=20, patience=2)
    (fold,) = result.folds
    assert (fold.best, fold.scores, len(fold.epochs)) == (4, {"loss": 2}, 6)


@pytest.mark.parametrize(
    ("patience", "epochs", "message"),
    [
        (2, 3, "^fold 0: the loss of all 3 scored epochs on the examples held out is NaN; lower"),
        (None, 5, "^fold 0: the loss of epoch 5 on the examples held out is NaN; lower"),
    ],
)
def test_nan_at_the_end_is_said(
    patience: int | None, epochs: int, message: str, tmp_path: Path
) -> None:
    losses = [math.nan, *[math.nan if patience else 2.0] * 3, math.nan]
    again = functools.partial(
        slope, loss=jobs.Scripted(losses), epochs=5, patience=patience, directory=tmp_path
    )
    with pytest.warns(RuntimeWarning, match=message):
        (fold,) = again().folds
    assert (fold.best, len(fold.epochs)) == (epochs, epochs)
    assert math.isnan(fold.scores["loss"])
    (kept,) = again().folds
    assert math.isnan(kept.begin)
    assert kept.best == fold.best
