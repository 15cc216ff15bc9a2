"""GradScaler, gradient clipping and weight averaging around our optimizers."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from .twins import Twins, assert_close, draw, ours, theirs

BAD_STEPS = (3, 4, 9)


def model_of(seed: int = 5) -> nn.Module:
    """A small network with batch statistics, in float64.

    No bias before them: its gradient would be rounding errors, which Adam makes steps of.
    """
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)
    ).double()


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    """Two models' parameters and buffers are equal up to rounding."""
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert_close(y, x, name, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("overflows", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_grad_scaler(rule: str, overflows: bool, clip: bool) -> None:
    """Scaled, unscaled, clipped and skipped on overflow as with torch's optimizer."""
    inputs, targets = draw(((16, 6), (16, 1)), torch.float64)
    outcome = []
    for cls in (theirs(rule), ours(rule)):
        model = model_of()
        optimizer = cls(model.parameters(), lr=0.02)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        scales, skipped = [], []
        for step in range(14):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            if overflows and step in BAD_STEPS:
                loss = loss * float("inf")
            scaler.scale(loss).backward()
            if clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            before = [p.detach().clone() for p in model.parameters()]
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            skipped.append(
                all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
            )
        outcome.append((model, scales, skipped))
    assert outcome[1][1] == outcome[0][1]
    assert outcome[1][2] == [overflows and step in BAD_STEPS for step in range(14)]
    assert_same_weights(outcome[0][0], outcome[1][0])


@pytest.mark.parametrize("foreach", [False, True])
def test_clip_grad_norm(rule: str, foreach: bool) -> None:
    """Gradients clipped in place before the step are the ones that are used."""
    twins = Twins(rule)
    for _ in range(10):
        twins.gradients(scale=10.0)
        norms = [nn.utils.clip_grad_norm_(p, 1.0, foreach=foreach) for _, p in twins.sides]
        assert norms[0] == norms[1] > 1
        twins.expected.step()
        twins.actual.step()
    twins.check()


def test_clip_grad_value(rule: str) -> None:
    """Clipping by value, too."""
    twins = Twins(rule)
    for _ in range(10):
        twins.gradients()
        for optimizer, params in twins.sides:
            nn.utils.clip_grad_value_(params, 0.1)
            optimizer.step()
    assert max(float(p.grad.abs().max()) for p in twins.params) == pytest.approx(0.1)
    twins.check()


EMA: Any = get_ema_multi_avg_fn  # has no types


@pytest.mark.parametrize("average", [{}, {"multi_avg_fn": EMA(0.9)}], ids=["mean", "ema"])
def test_averaged_model(rule: str, average: dict[str, Any]) -> None:
    """AveragedModel copies the trained model, keeps its own weights, and `update_bn` works."""
    inputs, targets = draw(((16, 6), (16, 1)), torch.float64)
    averages = []
    for cls in (theirs(rule), ours(rule)):
        model = model_of()
        optimizer = cls(model.parameters(), lr=0.02)
        averaged = AveragedModel(model, use_buffers=not average, **average)
        for _ in range(10):
            optimizer.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            optimizer.step()
            averaged.update_parameters(model)
        update_bn([inputs], averaged)
        own = {p.data_ptr() for p in averaged.parameters()}
        assert own.isdisjoint(p.data_ptr() for p in model.parameters())
        averages.append(averaged)
    assert_same_weights(*averages)
