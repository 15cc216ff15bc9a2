"""No tensor of ours follows `torch.set_default_device` or the default dtype."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import asyncopt

from .twins import COMBINED, SYNCS, Twins, draw


@pytest.fixture(params=["meta", torch.float64], ids=str)
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """A function that changes the default device or dtype until the test ends."""
    dtype = torch.get_default_dtype()

    def change() -> None:
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(request.param)

    yield change
    torch.set_default_device(None)
    torch.set_default_dtype(dtype)


def gradients(params: list[Any], step: int) -> None:
    """The same dense gradients whatever the defaults."""
    for i, param in enumerate(params):
        param.grad = (param.detach() * (i + 1) + 0.1 * step + 0.5).clone()


@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_steps_and_state(elsewhere: Callable[[], None], rule: str, options: dict[str, Any]) -> None:
    """Steps, saving, loading and numbers that a state dict holds as floats."""
    values = draw(((17,), (7, 7)))

    def train() -> list[Any]:
        twins = Twins(rule, values, options)
        for step in range(3):
            gradients(twins.params, step)
            twins.actual.step()
        saved = twins.actual.state_dict()
        for entries in saved["state"].values():
            if isinstance(entries.get("step"), torch.Tensor):
                entries["step"] = float(entries["step"])
        twins.actual.load_state_dict(saved)
        gradients(twins.params, 3)
        twins.actual.step()
        twins.actual.zero_grad()
        return twins.params

    expected = train()
    params = [nn.Parameter(value.clone()) for value in values]
    elsewhere()
    optimizer = getattr(asyncopt, rule)(params, **options)
    for step in range(3):
        gradients(params, step)
        optimizer.step()
    saved = optimizer.state_dict()
    for entries in saved["state"].values():
        if isinstance(entries.get("step"), torch.Tensor):
            entries["step"] = float(entries["step"])
    optimizer.load_state_dict(saved)
    gradients(params, 3)
    optimizer.step()
    optimizer.zero_grad()
    for a, b in zip(params, expected, strict=True):
        assert torch.equal(a, b)


def embedding(flat: bool, shared: bool, sync: str, elsewhere: Callable[[], None] | None) -> Any:
    """Train a table and a bias for some steps; returns their values."""
    table, bias = nn.Parameter(draw(((50, 3),))[0]), nn.Parameter(draw(((3,),))[0])
    index = torch.tensor([[3, 7, 7, 11]])
    values = draw(((4, 3),))[0]
    if elsewhere is not None:
        elsewhere()
    how = "touched" if flat or asyncopt.optim.kernels.syncs()[sync]["replica"] else "dense"
    optimizer = asyncopt.SGD(
        [table, bias], lr=0.1, momentum=0.9, sync=sync, sparse_updates=how, flat_grads=flat
    )
    if shared:
        optimizer.share_memory(2)
    for _ in range(3):
        sparse = torch.sparse_coo_tensor(index, values, table.shape, device="cpu")
        table.grad = sparse.to_dense() if flat else sparse
        gradients([bias], 1)
        optimizer.step()
        optimizer.step_rows(table, index[0], values)
        optimizer.zero_grad()
    optimizer.catch_up()
    optimizer.state_dict()
    return [table.detach().clone(), bias.detach().clone()]


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flat"])
def test_rows_flat_and_shared(
    elsewhere: Callable[[], None], sync: str, flat: bool, shared: bool
) -> None:
    """Sparse gradients, journals of rows, flat buffers and stores."""
    expected = embedding(flat, shared, sync, None)
    for a, b in zip(embedding(flat, shared, sync, elsewhere), expected, strict=True):
        assert torch.equal(a, b)


def train(worker: Any, model: Any, optimizer: Any, data: Any) -> int:
    """One worker's share of a run."""
    batches = 0
    for x, y in worker.batches(data, batch_size=4, epochs=2, shuffle=True):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        batches += 1
    return batches


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["thread", "process"])
def test_launch(elsewhere: Callable[[], None], mode: str, tmp_path: Path, sync: str) -> None:
    """A run with batches and a checkpoint trains what it was given."""
    model = nn.Linear(5, 1)
    before = [param.detach().clone() for param in model.parameters()]
    data = (torch.randn(32, 5), torch.randn(32, 1))
    elsewhere()
    optimizer = asyncopt.Adam(model.parameters(), sync=sync)
    run = asyncopt.launch(
        train,
        (model, optimizer, data),
        workers=1 if sync != SYNCS[0] else 2,
        mode=mode,
        timeout=240,
        checkpoint=asyncopt.Checkpoints(tmp_path, every=60.0),
    )
    assert sum(run.results) == 16
    for param, old in zip(model.parameters(), before, strict=True):
        assert param.device.type == "cpu"
        assert param.isfinite().all()
        assert not torch.equal(param, old)
