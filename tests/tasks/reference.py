"""A cross-validation, and the serial loop of plain torch that it must equal to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from asyncopt.tasks import CrossValidation, cross_validate

from . import jobs

FOLDS, EPOCHS, BATCH, SEED = 3, 4, 16, 5


def make_data() -> tuple[Tensor, Tensor]:
    """x float32 (100, 6), y int64 (100,) of three classes."""
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def splitter() -> StratifiedKFold:
    return StratifiedKFold(FOLDS, shuffle=True, random_state=1)


def validate(**arguments: Any) -> CrossValidation:
    """The call that `serial` makes without us."""
    fine: dict[str, Any] = {
        "make_model": jobs.make_model,
        "data": make_data(),
        "folds": splitter(),
        "workers": 2,
        "scheduler": jobs.make_schedule,
        "optimizer": jobs.make_optimizer,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "seed": SEED,
        "preload": ["torch._dynamo"],  # which torch's optimizers import
    }
    return cross_validate(**fine | arguments)


def seed_of(fold: int) -> int:
    """The first 64 bits of the fold's random stream."""
    low, high = np.random.SeedSequence(SEED, spawn_key=(fold,)).generate_state(2)
    return int(low) | int(high) << 32


def serial(fold: int) -> tuple[list[float], dict[str, float], dict[str, Tensor]]:
    """One fold, as a loop that anybody would write: its rates, last scores and model."""
    x, y = make_data()
    train, test = list(splitter().split(x, y))[fold]
    torch.manual_seed(seed_of(fold))
    model = jobs.make_model()
    optimizer = jobs.make_optimizer(model.parameters())
    schedule = jobs.make_schedule(optimizer)
    rates = []
    for epoch in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        order = np.random.default_rng((seed_of(fold), epoch)).permutation(len(train))
        model.train()
        for start in range(0, len(train), BATCH):
            index = train[order[start : start + BATCH]]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        output = model(x[test])
        scores = {
            "loss": float(torch.nn.functional.cross_entropy(output, y[test])),
            "accuracy": float((output.argmax(dim=1) == y[test]).float().mean()),
        }
    return rates, scores, model.state_dict()
