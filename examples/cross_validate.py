"""Cross-validate a network, with folds side by side in worker processes.

python examples/cross_validate.py folds.html    # writes a page with plots too
"""

import functools
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import asyncopt


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


if __name__ == "__main__":
    digits = load_digits()
    inputs = torch.tensor(digits.data / 16, dtype=torch.float32)
    result = asyncopt.cross_validate(
        make_model,
        (inputs, torch.tensor(digits.target)),
        folds=5,
        optimizer=functools.partial(asyncopt.Adam, lr=1e-3),
        loss=nn.functional.cross_entropy,
        epochs=30,
        patience=5,
        seed=0,
    )
    print(result)
    if len(sys.argv) > 1:
        result.report(sys.argv[1])
