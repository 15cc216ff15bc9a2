"""A program that trains and is killed; run by test_killed_launcher.py, never imported."""

from __future__ import annotations

import torch

import asyncopt
from asyncopt.run import launch
from tests.chaos import jobs
from tests.chaos.scene import Scene

if __name__ == "__main__":
    model = jobs.Weights(100_000)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.01, sync="mutex")
    data = torch.zeros(500)
    launch(jobs.descend, (model, optimizer, data, Scene.of(2)), workers=2, on_failure="restart")
