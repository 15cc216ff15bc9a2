"""A module with a random constant, like one that splits its data at import."""

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
    """The constant of this worker's import."""
    return CONSTANT
