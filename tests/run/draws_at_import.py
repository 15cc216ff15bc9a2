"""A module with a random constant, as one that splits its data when it is imported."""

from __future__ import annotations

import random

import numpy as np
import torch

from asyncopt.run import Worker

CONSTANT = (
    float(torch.rand(())),
    float(np.random.random()),  # noqa: NPY002
    random.random(),
)


def constant(worker: Worker) -> tuple[float, float, float]:
    """As this worker's import made it."""
    return CONSTANT
