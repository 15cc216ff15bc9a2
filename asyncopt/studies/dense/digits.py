"""A two-layer perceptron on scikit-learn's 1,797 handwritten digits (1,437 to train)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from asyncopt.studies.dense.training import Split, TrainingProblem, seeded_split


@lru_cache(maxsize=1)
def load(seed: int) -> Split:
    """Images, x float32 (n, 64) in [0, 1] and y int64 (n,); they come inside scikit-learn."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).to(torch.float32).div_(16)
    return seeded_split(x, torch.from_numpy(labels).to(torch.int64), train=1437, seed=seed)


def build() -> nn.Module:
    """9,610 parameters in 4 tensors: a step takes a few microseconds, so that sharing shows."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


DIGITS = TrainingProblem(
    name="digits",
    title="MLP on digits",
    about="A two-layer perceptron (9,610 parameters) trained on 1,437 of scikit-learn's digits, "
    "batch 32, tested on 360 others. Gradients are cheap here, so updates meet often.",
    needs=("sklearn",),
    load=load,
    build=build,
    batch_size=32,
    epochs=40,
    quick_epochs=10,
    examples=1437,
    second=0.008,
)
