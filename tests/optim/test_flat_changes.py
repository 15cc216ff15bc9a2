"""Tensors replaced between steps: flat gradients train as gradients without a buffer do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from .twins import RTOL, assert_close, ours, theirs

#: Without a buffer, a parameter that backward does not reach has no gradient; with one, it has
#: zeros. These options make the difference show, and the momentum of a gradient of before too.
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"weight_decay": 0.1},
}


class Model(nn.Module):
    """A convolution, whose memory format can change, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(2, 4, 3)
        self.last = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 2, 4, 4) -> (n, 1)."""
        result: torch.Tensor = self.last(self.conv(x).tanh().flatten(1))
        return result


def loss_of(model: Model) -> torch.Tensor:
    """The same at each call."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(8, 2, 4, 4, dtype=torch.float64, generator=generator)
    y = torch.randn(8, 1, dtype=torch.float64, generator=generator)
    dtype = model.last.weight.dtype
    loss: torch.Tensor = (model(x.to(dtype)) - y.to(dtype)).square().mean()
    return loss


Change = Callable[[Model, Any], None]


def new_parameter(model: Model, optimizer: Any) -> None:
    old = model.last.weight
    model.last.weight = nn.Parameter(old.detach() * 2)
    params = optimizer.param_groups[0]["params"]
    params[[id(p) for p in params].index(id(old))] = model.last.weight


def appended(model: Any, optimizer: Any) -> None:
    if not hasattr(model, "more"):
        model.more = nn.Parameter(torch.ones(3, dtype=model.last.weight.dtype))
        optimizer.param_groups[0]["params"].append(model.more)
        forward = model.forward
        model.forward = lambda x: forward(x) * model.more.sum()


def new_groups(model: Model, optimizer: Any) -> None:
    for name, param in list(model.named_parameters()):
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(param.detach() * 1.5))
    group = optimizer.param_groups[0]
    optimizer.param_groups = [{**group, "params": list(model.parameters())}]


def assigned(model: Model, optimizer: Any) -> None:
    state = {k: v.detach() * 1.5 for k, v in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    optimizer.param_groups[0]["params"] = list(model.parameters())


def channels_last(model: Any, optimizer: Any) -> None:
    model.to(memory_format=torch.channels_last)


def double(model: Model, optimizer: Any) -> None:
    model.double()


def data(model: Model, optimizer: Any) -> None:
    for param in model.parameters():
        param.data = param.data * 1.5


def grad(model: Model, optimizer: Any) -> None:
    for param in model.parameters():
        if param.grad is not None:
            param.grad = param.grad * 2


def grad_data(model: Model, optimizer: Any) -> None:
    for param in model.parameters():
        if param.grad is not None:
            param.grad.data = param.grad.data * 2


def one_grad_data(model: Model, optimizer: Any) -> None:
    if model.conv.weight.grad is not None:
        model.conv.weight.grad.data = model.conv.weight.grad.data * 2


def no_grad(model: Model, optimizer: Any) -> None:
    model.zero_grad()


def some_without(model: Model, optimizer: Any) -> None:
    model.conv.weight.grad = None


def frozen(model: Model, optimizer: Any) -> None:
    model.conv.requires_grad_(False)


def thawed(model: Model, optimizer: Any) -> None:
    model.conv.requires_grad_(not model.conv.weight.requires_grad)


def new_state(model: Model, optimizer: Any) -> None:
    for entries in optimizer.state.values():
        for name, entry in entries.items():
            if isinstance(entry, torch.Tensor) and entry.ndim:
                entries[name] = entry * 2


CHANGES: list[Change] = [
    new_parameter,
    appended,
    new_groups,
    assigned,
    channels_last,
    double,
    data,
    grad,
    grad_data,
    one_grad_data,
    no_grad,
    some_without,
    frozen,
    thawed,
    new_state,
]

WHEN = ("before zero_grad", "before forward", "before step", "after step")


def fit(optimizer: Any, model: Model, change: Change, when: str) -> None:
    """Ten steps; the change comes in the fourth and the seventh."""
    for step in range(10):
        now = when if step in (3, 6) else ""
        if now == WHEN[0]:
            change(model, optimizer)
        optimizer.zero_grad()
        if now == WHEN[1]:
            change(model, optimizer)
        loss_of(model).backward()
        if now == WHEN[2]:
            change(model, optimizer)
        optimizer.step()
        if now == WHEN[3]:
            change(model, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("rule", OPTIONS)
@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_trains_as_without_a_buffer(change: Change, when: str, rule: str) -> None:
    """Same weights as torch.optim, whose gradients are None between steps.

    torch's own optimizers do not convert their state where a model is converted; ours do.
    """
    reference = ours(rule) if change is double else theirs(rule)
    models = []
    for cls, extra in ((reference, {}), (ours(rule), {"flat_grads": True})):
        model = Model()
        fit(cls(model.parameters(), lr=0.01, **OPTIONS[rule], **extra), model, change, when)
        models.append(model)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert_close(b, a, rtol=1000 * RTOL[a.dtype])


@pytest.mark.parametrize("rule", OPTIONS)
@pytest.mark.parametrize("first", ["frozen", "trained"])
def test_frozen_from_the_start(rule: str, first: str) -> None:
    """A parameter that is frozen when the optimizer is made has no gradient until it is thawed."""
    models = []
    for cls, extra in ((theirs(rule), {}), (ours(rule), {"flat_grads": True})):
        model = Model()
        model.conv.requires_grad_(first == "trained")
        optimizer = cls(model.parameters(), lr=0.01, **OPTIONS[rule], **extra)
        assert (model.conv.weight.grad is None) or first == "trained"
        for step in range(9):
            if step in (3, 6):
                thawed(model, optimizer)
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        models.append(model)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert_close(b, a, rtol=1000 * RTOL[a.dtype])


@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flat"])
def test_zero_grad_between_forward_and_backward(rule: str, flat: bool) -> None:
    """As torch's tutorial has it; and a step there is refused by autograd, as torch's is."""
    models = []
    for cls, extra in ((theirs(rule), {}), (ours(rule), {"flat_grads": flat})):
        model = Model()
        optimizer = cls(model.parameters(), lr=0.01, **extra)
        for _ in range(4):
            loss = loss_of(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss = loss_of(model)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        models.append(model)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert_close(b, a, rtol=1000 * RTOL[a.dtype])


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flat"])
def test_distributed_state_dict(rule: str, flat: bool, fresh: bool) -> None:
    """`torch.distributed.checkpoint.state_dict` saves from and loads into it."""
    options = OPTIONS.get(rule, {})
    models = []
    for cls, extra in ((theirs(rule), {}), (ours(rule), {"flat_grads": flat})):
        model, saved_from = Model(), Model()
        optimizer = cls(model.parameters(), lr=0.01, **options, **extra)
        other = cls(saved_from.parameters(), lr=0.02, **options, **extra)
        for made, trained in ((model, optimizer), (saved_from, other)):
            for _ in range(0 if fresh and trained is optimizer else 3):
                trained.zero_grad()
                loss_of(made).backward()
                trained.step()
        saved = get_optimizer_state_dict(saved_from, other)
        set_optimizer_state_dict(model, optimizer, saved)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        models.append(model)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert_close(b, a, rtol=1000 * RTOL[a.dtype])


def test_zero_grad_keeps_views_of_buckets(rule: str) -> None:
    """Gradients that are views (of DDP's buckets, say) are zeroed in place, as torch does."""
    for cls in (theirs(rule), ours(rule)):
        param = nn.Parameter(torch.ones(4))
        bucket = torch.ones(8)
        optimizer = cls([param])
        param.grad = bucket[2:6]
        optimizer.zero_grad(set_to_none=False)
        assert bucket.tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
        assert param.grad is not None
        param.grad = (nn.Parameter(torch.ones(4)) * 2).exp()
        optimizer.zero_grad(set_to_none=False)
        assert param.grad.grad_fn is None
        assert not param.grad.requires_grad
        assert not param.grad.any()
