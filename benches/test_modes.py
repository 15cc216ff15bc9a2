"""Predictions of `asyncopt doctor` for training on the CPU, beside measured training.

The machine is measured again before each training. The workers are real and push real gradients,
but spin for the time of a batch instead of computing. A ratio above 1: faster than predicted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import asyncopt
from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.modes import forecasts
from asyncopt.studies.diagnosis.plan import Training
from asyncopt.studies.diagnosis.rates import measure
from asyncopt.studies.options import usable_cores
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay

pytestmark = pytest.mark.benchmark(timer=replay)

FREE, LOCKED, LOCAL = "in place, lock-free", "in place, one lock", "local steps"
MODES = (FREE, LOCKED, LOCAL)
MILLION = 1_000_000
CASES = [(MILLION, 0.003), (25 * MILLION, 0.03)]
WORKERS = 2
LEAST = 0.6  # seconds of one training


def forecast(task: Training, mode: str) -> Forecast:
    """Forecast from rates measured now."""
    rates = measure((task.rule, "SGD"), usable_cores())
    return next(each for each in forecasts(task, rates) if each.mode.startswith(mode))


def predict(task: Training, mode: str) -> float:
    """Seconds per batch of all workers together."""
    return 1 / forecast(task, mode).rate


def optimizer(task: Training, mode: str) -> torch.optim.Optimizer:
    """An optimizer over one parameter, not shared yet."""
    parameter = torch.nn.Parameter(torch.zeros(task.parameters))
    make = getattr(asyncopt, task.rule)
    if mode == LOCAL:
        every = int(forecast(task, mode).mode.partition("=")[2])
        return asyncopt.LocalSteps(make([parameter]), every=every)
    return make([parameter], sync="hogwild" if mode == FREE else "mutex")  # type: ignore[no-any-return]


def work(
    worker: asyncopt.run.Worker, opt: torch.optim.Optimizer, compute: float, batches: int
) -> tuple[float, float]:
    """Runs in every worker; when it began and ended."""
    parameter = opt.param_groups[0]["params"][0]
    parameter.grad = torch.full_like(parameter, 1e-3)
    opt.step()  # touches every page
    worker.barrier()
    begin = time.perf_counter()
    for _ in range(batches):
        ready = time.perf_counter() + compute
        while time.perf_counter() < ready:
            pass
        opt.step()
    return begin, time.perf_counter()


def train(task: Training, mode: str, expected: float) -> float:
    """Measured seconds per batch; `expected` decides the number of batches."""
    batches = max(8, round(LEAST / expected / task.workers))
    opt: Any = optimizer(task, mode)
    run = asyncopt.launch(work, (opt, task.compute, batches), workers=task.workers)
    pushes = (batches + 1) // getattr(opt, "every", 1) * task.workers
    assert run.ledger.pushes == pushes
    begin = min(times[0] for times in run.results)
    end = max(times[1] for times in run.results)
    return float(end - begin) / (batches * task.workers)


@pytest.mark.parametrize(("parameters", "compute"), CASES)
def test_modes(benchmark: Any, parameters: int, compute: float, quick: bool, say: Say) -> None:
    if quick and parameters > MILLION:
        pytest.skip("--quick: the small model")
    task = Training(parameters, compute, WORKERS, rule="Adam")
    samplers: dict[str, Callable[[], float]] = {}
    for mode in MODES:
        samplers[f"measured, {mode}"] = partial(train, task, mode, predict(task, mode))
        samplers[f"predicted, {mode}"] = partial(predict, task, mode)
    comparison = interleave(samplers, 3 if quick else ROUNDS)
    lines = record(
        benchmark,
        comparison,
        [Pair(f"measured, {mode}", f"predicted, {mode}") for mode in MODES],
        suite="modes",
        case={"parameters": parameters, "compute": compute, "workers": WORKERS},
    )
    for line in lines:
        say(line)
