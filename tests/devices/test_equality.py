"""One worker with a device trains as the optimizer alone does: the same bits on the host."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import asyncopt
from tests.contract.cases import CASES, Case

from . import models
from .conftest import Train, assert_same

SYNCS = asyncopt.syncs()


def adam(model: nn.Module, **options: Any) -> Any:
    return asyncopt.Adam(model.parameters(), lr=0.01, **options)


def alone(model: nn.Module, change: Any = lambda model, optimizer: None, **options: Any) -> Any:
    optimizer = adam(model, **options)
    models.fit(models.alone(), model, optimizer, *models.data(), change=change)
    return optimizer


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_every_sync(device: str, on: Train, sync: str, nonfinite: str) -> None:
    expected, model = models.lenet(), models.lenet()
    alone(expected)
    optimizer = adam(model, sync=sync, nonfinite=nonfinite)
    run = on(models.fit, model, optimizer, *models.data())
    assert_same(device, model, expected)
    assert run.results == [device]
    # Parts are one push, whose parameters no other worker has changed.
    assert run.ledger.pushes == run.ledger.version == 10
    assert run.ledger.staleness.total == 0
    assert run.ledger.staleness.count == 10


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rule(device: str, on: Train, case: Case) -> None:
    expected, model = models.mlp(), models.mlp()
    optimizer = case.ours(expected.parameters())
    models.fit(models.alone(), expected, optimizer, *models.data())
    other = case.ours(model.parameters())
    on(models.fit, model, other, *models.data())
    assert_same(device, model, expected)
    if device == "cpu":
        for one, two in zip(
            optimizer.state_dict()["state"].values(),
            other.state_dict()["state"].values(),
            strict=True,
        ):
            assert all(torch.equal(one[name], two[name]) for name in one)


def test_processes(device: str, on: Train) -> None:
    expected, model = models.lenet(), models.lenet()
    alone(expected)
    on(models.fit, model, adam(model), *models.data(), mode="process")
    assert_same(device, model, expected)


def clip(model: nn.Module, optimizer: Any) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def replace(model: nn.Module, optimizer: Any) -> None:
    for param in model.parameters():
        assert param.grad is not None
        param.grad = -2 * param.grad


def drop_some(model: nn.Module, optimizer: Any) -> None:
    for param in list(model.parameters())[::3]:
        param.grad = None


def scale_back(model: nn.Module, optimizer: Any) -> None:
    """Unscale gradients as GradScaler.unscale_ does."""
    grads = [param.grad for param in model.parameters() if param.grad is not None]
    found, factor = (
        torch.zeros(1, device=grads[0].device),
        torch.tensor(0.5, device=grads[0].device),
    )
    torch._amp_foreach_non_finite_check_and_unscale_(grads, found, factor)


@pytest.mark.parametrize("change", [clip, replace, drop_some, scale_back])
def test_gradients_that_change_after_they_were_sent(device: str, on: Train, change: Any) -> None:
    expected, model = models.mlp(), models.mlp()
    alone(expected, change)
    on(models.fit, model, adam(model), *models.data(), 2, change)
    assert_same(device, model, expected)


def accumulate(worker: Any, model: nn.Module, optimizer: Any, x: Any, y: Any, none: bool) -> None:
    for number, (xb, yb) in enumerate(worker.batches((x, y), batch_size=4, epochs=2)):
        nn.functional.cross_entropy(model(xb), yb).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=none)


@pytest.mark.parametrize("none", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_gradients_that_accumulate_and_stay(device: str, on: Train, none: bool, flat: bool) -> None:
    expected, model = models.mlp(), models.mlp()
    accumulate(models.alone(), expected, adam(expected, flat_grads=flat), *models.data(), none)
    on(accumulate, model, adam(model, flat_grads=flat), *models.data(), none)
    assert_same(device, model, expected)


def test_modules_that_read_the_parameters_of_others(device: str, on: Train) -> None:
    expected, model = models.Odd(), models.Odd()
    alone(expected)
    on(models.fit, model, adam(model), *models.data())
    assert_same(device, model, expected)


def by_hand(worker: Any, weights: list[Any], optimizer: Any) -> None:
    """No module at all, and no backward."""
    for step in range(4):
        for i, weight in enumerate(weights):
            weight.grad = weight.detach() * (0.1 * i + step)
        optimizer.step()


def test_parameters_of_no_module(device: str, on: Train) -> None:
    expected = [nn.Parameter(torch.full((50, i), 1.0 + i)) for i in range(4)]
    weights = [nn.Parameter(weight.detach().clone()) for weight in expected]
    by_hand(models.alone(), expected, asyncopt.SGD(expected, lr=0.1, momentum=0.9))
    on(by_hand, weights, asyncopt.SGD(weights, lr=0.1, momentum=0.9))
    for one, other in zip(weights, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0 if device == "cpu" else 1e-6, atol=0)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(30, 8, sparse=True)
        self.out = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x.flatten(1)[:, :7] * 100).long() % 30
        out: torch.Tensor = self.out(self.table(rows).mean(dim=1))
        return out


@pytest.mark.parametrize("sync", ["hogwild", "seqlock"])
def test_sparse_gradients(device: str, on: Train, sync: str) -> None:
    expected, model = Words(), Words()
    alone(expected)
    on(models.fit, model, adam(model, sync=sync), *models.data())
    assert_same(device, model, expected)


def poison(model: nn.Module, optimizer: Any) -> None:
    """Every other gradient has a NaN in one tensor."""
    optimizer.poisoned = not getattr(optimizer, "poisoned", False)
    if optimizer.poisoned:
        param = next(iter(model.parameters()))
        assert param.grad is not None
        param.grad[0, 0] = float("nan")


@pytest.mark.parametrize("sync", ["hogwild", "mutex", "seqlock"])
def test_a_push_that_is_not_finite_is_skipped_whole(device: str, on: Train, sync: str) -> None:
    expected, model = models.mlp(), models.mlp()
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        alone(expected, poison, nonfinite="skip")
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        run = on(models.fit, model, adam(model, sync=sync), *models.data(), 2, poison)
    assert_same(device, model, expected)
    assert (run.ledger.pushes, run.ledger.skipped_nonfinite) == (5, 5)


def follow_a_schedule(worker: Any, model: nn.Module, optimizer: Any, x: Any, y: Any) -> None:
    def change(model: nn.Module, optimizer: Any) -> None:
        group = optimizer.param_groups[0]
        group["lr"] *= 0.7
        group["maximize"] = group["lr"] < 0.003

    models.fit(worker, model, optimizer, x, y, 2, change)


def test_options_that_change(device: str, on: Train) -> None:
    expected, model = models.mlp(), models.mlp()
    follow_a_schedule(models.alone(), expected, adam(expected), *models.data())
    on(follow_a_schedule, model, adam(model), *models.data())
    assert_same(device, model, expected)


def test_two_optimizers(device: str, on: Train) -> None:
    def both(worker: Any, made: tuple[Any, Any, Any], x: Any, y: Any) -> None:
        model, first, second = made
        for xb, yb in worker.batches((x, y), batch_size=8):
            first.zero_grad()
            second.zero_grad()
            nn.functional.cross_entropy(model(xb), yb).backward()
            first.step()
            second.step()

    def made() -> Any:
        model = models.mlp()
        params = list(model.parameters())
        return model, asyncopt.Adam(params[:2]), asyncopt.SGD(params[2:], lr=0.1)

    expected, model = made(), made()
    both(models.alone(), expected, *models.data())
    on(both, model, *models.data())
    assert_same(device, model[0], expected[0])


def look_everywhere(worker: Any, model: Any, optimizer: Any, x: Any, y: Any) -> list[Any]:
    """Read parameters after a step: evaluation, an average, a state dict."""
    average = copy.deepcopy(model)
    seen = []
    for xb, yb in worker.batches((x, y), batch_size=8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(xb), yb).backward()
        optimizer.step()
        seen += [value.to("cpu", copy=True) for value in model.state_dict().values()]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(xb), yb).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            seen.append(model(xb).cpu())
        model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(xb), yb).backward()
        optimizer.step()
        if hasattr(optimizer, "flush"):
            optimizer.flush()
        with torch.no_grad():
            for mean, param in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(param, 0.5)
        state = optimizer.state_dict()["state"]
        now = (state[0]["exp_avg"], *average.parameters())
        seen += [tensor.detach().to("cpu", copy=True) for tensor in now]
    return seen


@pytest.mark.slow
@pytest.mark.usefixtures("slow_lanes")
@pytest.mark.parametrize("sync", ["hogwild", "seqlock"])
@pytest.mark.parametrize("made", [models.lenet, models.Odd])
def test_nothing_is_read_before_it_has_come(device: str, on: Train, sync: str, made: Any) -> None:
    expected, model = made(), made()
    there = look_everywhere(models.alone(), expected, adam(expected), *models.data(16))
    run = on(look_everywhere, model, adam(model, sync=sync), *models.data(16))
    assert_same(device, model, expected)
    for one, other in zip(run.results[0], there, strict=True):
        rtol = 0 if device == "cpu" else 1e-4
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol / 10)


@pytest.mark.usefixtures("slow_lanes")
@pytest.mark.parametrize("made", [models.lenet, models.Odd])
def test_every_forward_pass_waits_for_what_it_reads(device: str, on: Train, made: Any) -> None:
    expected, model = made(), made()
    alone(expected)
    on(models.fit, model, adam(model), *models.data())
    assert_same(device, model, expected)


def _apply(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, layer.weight, layer.bias)


class Sly(nn.Module):
    """In evaluation it reads its layers' parameters itself, as nn.TransformerEncoderLayer may."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            read = layer if self.training else partial(_apply, layer)
            x = read(x)
        return x


@pytest.mark.usefixtures("slow_lanes")
def test_other_ways_through_a_module_in_evaluation(device: str, on: Train) -> None:
    def train(worker: Any, model: nn.Module, optimizer: Any) -> torch.Tensor:
        x = torch.linspace(-1, 1, 48, device=worker.device).reshape(3, 16)
        for _ in range(3):
            optimizer.zero_grad()
            model.train()(x).square().sum().backward()
            optimizer.step()
        with torch.inference_mode():
            out: torch.Tensor = model.eval()(x).to("cpu", copy=True)
        return out

    expected, model = Sly(), Sly()
    there = train(models.alone(), expected, adam(expected))
    run = on(train, model, adam(model))
    rtol = 0 if device == "cpu" else 1e-4
    torch.testing.assert_close(run.results[0], there, rtol=rtol, atol=rtol / 10)


def test_averaging(device: str, on: Train) -> None:
    """Local steps are taken on the device; the center stays on the host."""

    def train(worker: Any, model: Any, optimizer: Any, x: Any, y: Any) -> str:
        models.fit(worker, model, optimizer, x, y)
        return str(next(model.parameters()).device)

    def averaging(model: nn.Module) -> Any:
        return asyncopt.LocalSteps(torch.optim.Adam(model.parameters(), lr=0.01), every=2)

    expected, model = models.mlp(), models.mlp()
    args = (expected, averaging(expected), *models.data())
    asyncopt.launch(train, args, workers=1, mode="thread", threads_per_worker=1)
    run = on(train, model, averaging(model), *models.data())
    assert run.results == [device]
    assert_same(device, model, expected)
