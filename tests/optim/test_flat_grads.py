"""flat_grads=True: all gradients are views of one buffer."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from .twins import COMBINED, RTOL, assert_close, draw, ours, theirs


class Partial(nn.Module):
    """Uses its second layer only if `both`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Linear(5, 7)
        self.second = nn.Linear(7, 7)
        self.last = nn.Linear(7, 1)

    def forward(self, x: torch.Tensor, *, both: bool) -> torch.Tensor:
        """(n, 5) -> (n, 1)."""
        x = self.first(x).tanh()
        result: torch.Tensor = self.last(self.second(x) if both else x)
        return result


def fit(model: Any, optimizer: Any, steps: int, *, both: bool = True) -> None:
    """Train on fixed data; gradients that torch would leave None are made zero."""
    dtype = model.first.weight.dtype
    x, y = draw(((8, 5), (8, 1)), dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x, both=both) - y).square().mean().backward()
        for p in model.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        optimizer.step()


def pair(rule: str, options: dict[str, Any], dtype: torch.dtype) -> list[tuple[Any, Any]]:
    """[(model, torch's optimizer), (equal model, ours with flat gradients)]."""
    pairs = []
    for cls, extra in ((theirs(rule), {}), (ours(rule), {"flat_grads": True})):
        model = Partial().to(dtype)
        pairs.append((model, cls(model.parameters(), **options, **extra)))
    return pairs


def check(pairs: list[tuple[Any, Any]]) -> None:
    """Both models have the same weights (gradients depend on them: rounding adds up)."""
    for a, b in zip(*(model.parameters() for model, _ in pairs), strict=True):
        assert_close(b, a, rtol=100 * RTOL[a.dtype])


@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_trains_as_torch_does(rule: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Same weights as torch; a layer left out of backward has zero gradients, not None."""
    pairs = pair(rule, options, dtype)
    for model, optimizer in pairs:
        fit(model, optimizer, 5)
        fit(model, optimizer, 5, both=False)
        fit(model, optimizer, 5)
    check(pairs)


def test_gradients_are_views_of_one_buffer(rule: str) -> None:
    """Before and after backward and step, the same memory; `zero_grad` zeroes it."""
    _, (model, optimizer) = pair(rule, {}, torch.float32)
    grads = [p.grad for p in model.parameters()]
    assert len({g.untyped_storage().data_ptr() for g in grads}) == 1
    assert [g.shape for g in grads] == [p.shape for p in model.parameters()]
    assert not any(g.any() for g in grads)
    spans = sorted((g.storage_offset(), g.storage_offset() + g.numel()) for g in grads)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert all(g.data_ptr() % 16 == 0 for g in grads)  # for vectors of a GPU, biases included
    pointers = [g.data_ptr() for g in grads]
    fit(model, optimizer, 2)
    assert [p.grad.data_ptr() for p in model.parameters()] == pointers
    assert all(p.grad.any() for p in model.parameters())
    for set_to_none in (True, False):
        optimizer.zero_grad(set_to_none=set_to_none)
        assert [p.grad.data_ptr() for p in model.parameters()] == pointers
        assert not any(p.grad.any() for p in model.parameters())
        fit(model, optimizer, 1)


def test_clipping_acts_on_the_buffer(rule: str) -> None:
    """`clip_grad_norm_` works in place and is seen by the step."""
    pairs = pair(rule, {}, torch.float64)
    x, y = draw(((8, 5), (8, 1)), torch.float64)
    norms = []
    for model, optimizer in pairs:
        for _ in range(5):
            optimizer.zero_grad()
            (1e3 * (model(x, both=True) - y).square().mean()).backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1e-2))
            optimizer.step()
    assert min(norms) > 1e-2
    check(pairs)


def test_mixed_dtypes(rule: str) -> None:
    """Parameters of several dtypes: one buffer per dtype, the same results."""
    results = []
    for cls, extra in ((theirs(rule), {}), (ours(rule), {"flat_grads": True})):
        a, b = (nn.Parameter(v) for v in (draw(((9,),))[0], draw(((5,),), torch.float64)[0]))
        optimizer = cls([a, b], lr=0.05, **extra)
        for _ in range(10):
            optimizer.zero_grad()
            loss: Any = a.square().sum().double() * b.square().sum()
            loss.backward()
            optimizer.step()
        results.append((a, b))
    for a, b in zip(*results, strict=True):
        assert_close(b, a, rtol=1e-5)


def test_group_added_later(rule: str) -> None:
    """A group that is added after steps gets flat gradients too; nothing is lost."""
    results = []
    for cls, extra in ((theirs(rule), {}), (ours(rule), {"flat_grads": True})):
        params = [nn.Parameter(v) for v in draw(((9,), (5,)), torch.float64)]
        optimizer = cls(params[:1], lr=0.05, **extra)
        for step in range(10):
            if step == 4:
                optimizer.add_param_group({"params": params[1:], "lr": 0.1})
            optimizer.zero_grad()
            loss: Any = sum(p.square().sum() for p in params)
            loss.backward()
            optimizer.step()
        results.append(params)
    for a, b in zip(*results, strict=True):
        assert_close(b, a)


@pytest.mark.parametrize("how", ["model.zero_grad", "replaced", "none"])
def test_gradients_taken_out_of_the_buffer(rule: str, how: str) -> None:
    """A gradient that is no longer a view is never silently ignored.

    `model.zero_grad()` drops the views. The step either uses the gradients that are there now,
    as torch would, or says what to call instead.
    """
    pairs = pair(rule, {}, torch.float64)
    for model, optimizer in pairs:
        fit(model, optimizer, 2)
    x, y = draw(((8, 5), (8, 1)), torch.float64)
    refused = None
    for model, optimizer in pairs:
        for _ in range(3):
            if how == "model.zero_grad":
                model.zero_grad()
            else:
                optimizer.zero_grad()
            (model(x, both=True) - y).square().mean().backward()
            if how == "replaced":
                for p in model.parameters():
                    p.grad = p.grad * 2
            elif how == "none":
                model.second.weight.grad = None
            try:
                optimizer.step()
            except (RuntimeError, ValueError) as error:
                refused = str(error)
                break
    if refused is None:
        check(pairs)
    else:
        assert "flat_grads" in refused


def test_deepcopy_has_its_own_buffer(rule: str) -> None:
    """A copied pair of model and optimizer trains alike and apart."""
    _, (model, optimizer) = pair(rule, {}, torch.float64)
    fit(model, optimizer, 2)
    model2, optimizer2 = copy.deepcopy((model, optimizer))
    storages = {p.grad.untyped_storage().data_ptr() for p in model.parameters()}
    assert storages.isdisjoint(p.grad.untyped_storage().data_ptr() for p in model2.parameters())
    kept = [p.detach().clone() for p in model.parameters()]
    fit(model2, optimizer2, 3)
    assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))
    fit(model, optimizer, 3)
    for a, b in zip(model.parameters(), model2.parameters(), strict=True):
        assert torch.equal(a, b)
