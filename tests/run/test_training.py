"""Runs that train the optimizers in their arguments."""

from __future__ import annotations

import pytest
import torch

import asyncopt
from asyncopt.run import launch

from . import jobs

SIZE = 37
STEPS = 50


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
@pytest.mark.parametrize("sync", ["atomic", "leashed"])  # one in place, one with replicas
def test_every_push_arrives_and_is_counted(sync: str, mode: str) -> None:
    model = jobs.Bias(SIZE)
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0, sync=sync)
    args = (model, {"optimizers": [optimizer]}, STEPS)
    assert optimizer.store is None
    rounds = 1 if mode == "process" else 2  # a second run goes on where the first one ended
    for runs in range(1, rounds + 1):
        run = launch(jobs.count_down, args, workers=2, mode=mode, threads_per_worker=1)
        assert torch.equal(model.bias, torch.full((SIZE,), -2.0 * STEPS * runs))
        assert min(run.results) == -2.0 * STEPS * runs
        assert run.ledger.pushes == 2 * STEPS
        assert run.ledger.version == 2 * STEPS
        assert run.updates_per_second == pytest.approx(2 * STEPS / run.elapsed)
    model().backward()
    optimizer.step()  # this process goes on alone
    assert optimizer.ledger().pushes == 2 * STEPS * rounds + 1
    assert model.bias[0] == -2.0 * STEPS * rounds - 1


def test_an_optimizer_outlives_killed_workers() -> None:
    model = jobs.Bias(SIZE)
    args = (model, {"optimizers": [asyncopt.SGD(model.parameters(), lr=1.0, sync="mutex")]}, STEPS)
    with pytest.raises(asyncopt.WorkerError, match="SIGKILL"):
        launch(jobs.count_down_and_die, args, workers=2)
    assert model.bias[0] == -2.0 * STEPS
    launch(jobs.count_down, args, workers=2)
    assert model.bias[0] == -4.0 * STEPS


def test_an_optimizer_outlives_failed_threads() -> None:
    model = jobs.Bias(SIZE)
    args = (model, {"optimizers": [asyncopt.SGD(model.parameters(), lr=1.0, sync="mutex")]}, STEPS)
    failures = []
    for _ in range(3):  # also while their exceptions, and so their frames, are kept
        with pytest.raises(asyncopt.WorkerError, match="boom") as caught:
            launch(jobs.count_down, (*args, 1), workers=2, mode="thread")
        failures.append(caught.value)
    before = float(model.bias.detach()[0])
    launch(jobs.count_down, args, workers=2, mode="thread")
    assert model.bias[0] == before - 2 * STEPS


def test_one_worker_learns_what_the_plain_loop_learns() -> None:
    """Equal bit for bit, in both modes."""
    expected = torch.nn.Linear(3, 1)
    models = [torch.nn.Linear(3, 1) for _ in range(2)]
    for model in models:
        model.load_state_dict(expected.state_dict())
    optimizer = asyncopt.Adam(expected.parameters(), lr=0.1)
    data = torch.randn(20, 3)
    jobs.fit(asyncopt.Worker(0, 1, lambda timeout: None), expected, optimizer, data)
    for model, mode in zip(models, ("process", "thread"), strict=True):
        optimizer = asyncopt.Adam(model.parameters(), lr=0.1)
        run = launch(jobs.fit, (model, optimizer, data), workers=1, mode=mode)
        # Training must not import what takes long (torch._dynamo: hundreds of modules); numpy loads
        # a dozen of its own when first used.
        assert len(run.results[0]) < 50
        assert not any(name.startswith("torch._dynamo") for name in run.results[0])
        assert torch.equal(model.weight, expected.weight)
        assert torch.equal(model.bias, expected.bias)
