"""A module that seeds every generator when it is imported, as scripts do at their top."""

from __future__ import annotations

import random

import numpy as np
import torch

from asyncopt.run import Worker

from .draws import Draws, draws

torch.manual_seed(0)
np.random.seed(0)  # noqa: NPY002
random.seed(0)


def draw(worker: Worker) -> Draws:
    """In a worker that imported this module to find this function."""
    return draws()
