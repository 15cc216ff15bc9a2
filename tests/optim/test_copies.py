"""deepcopy and pickle: a copy trains as the original would have, and independently of it."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from .twins import COMBINED, Twins, assert_close, assert_same_state, draw, options_of, ours


def through_torch_save(value: Any) -> Any:
    """A round trip through `torch.save`, whole objects allowed."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": through_torch_save,
}


@pytest.fixture(params=COPIES)
def copied(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Each way to copy an object."""
    return COPIES[request.param]


def train(optimizer: Any, steps: int, seed: int = 3) -> None:
    """Step with gradients that depend on the seed alone."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        for p, g in zip(params, draw([p.shape for p in params], seed=seed + step), strict=True):
            p.grad = g
        optimizer.step()


@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_copy_of_the_optimizer(
    rule: str, options: dict[str, Any], copied: Callable[[Any], Any]
) -> None:
    """The copy has its own parameters and state, bit for bit the original's, and its sync."""
    optimizer = ours(rule)(map(Parameter, draw(((17,), (), (7, 7)))), **options, sync="mutex")
    train(optimizer, 3)
    twin = copied(optimizer)
    assert type(twin) is type(optimizer)
    assert twin.sync == "mutex"
    assert_same_state(twin.state_dict(), optimizer.state_dict(), rtol=1e-30)
    before = copy.deepcopy(optimizer.state_dict())
    train(twin, 2)
    assert_same_state(optimizer.state_dict(), before, rtol=1e-30)  # the original stood still
    train(optimizer, 2)
    for a, b in zip(*(o.param_groups[0]["params"] for o in (optimizer, twin)), strict=True):
        assert a.data_ptr() != b.data_ptr()
        assert torch.equal(a, b)
    assert_same_state(twin.state_dict(), optimizer.state_dict(), rtol=1e-30)


def test_copy_before_the_first_step(rule: str, copied: Callable[[Any], Any]) -> None:
    """A fresh optimizer's copy starts like the original, first-step rules included."""
    options = {n: v[1] for n, v in options_of(rule).items() if n in ("momentum", "dampening")}
    twins = Twins(rule, draw(((9,),)), options)
    twin = copied(twins.actual)
    train(twin, 4)
    train(twins.expected, 4)
    assert_close(twin.param_groups[0]["params"][0], twins.expected_params[0])


def test_copy_of_model_and_optimizer(rule: str, copied: Callable[[Any], Any]) -> None:
    """Copied together they stay tied to each other: training the pair trains the copied model."""
    (x,) = draw(((4, 3),))
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = ours(rule)(model.parameters(), lr=0.05)

    def fit(model: nn.Module, optimizer: Any) -> float:
        loss = torch.zeros(())
        for _ in range(3):
            optimizer.zero_grad()
            loss = (model(x) - 1).square().sum()
            loss.backward()
            optimizer.step()
        return loss.item()

    fit(model, optimizer)
    model2, optimizer2 = copied((model, optimizer))
    own = [id(p) for p in model2.parameters()]
    assert [id(p) for p in optimizer2.param_groups[0]["params"]] == own
    kept = [p.detach().clone() for p in model.parameters()]
    second = fit(model2, optimizer2)
    assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))
    assert fit(model, optimizer) == second
    for a, b in zip(model.parameters(), model2.parameters(), strict=True):
        assert torch.equal(a, b)


def test_public_attributes_are_copied(rule: str, copied: Callable[[Any], Any]) -> None:
    """torch's own check: a copy has the public attributes of the original."""
    optimizer = ours(rule)(draw(((3,),)), nonfinite="skip")
    twin = copied(optimizer)
    public = [{k for k in vars(o) if not k.startswith("_")} for o in (optimizer, twin)]
    assert public[0] == public[1]
    twin.param_groups[0]["params"][0].grad = torch.full((3,), float("nan"))
    with pytest.warns(RuntimeWarning, match="finite"):
        twin.step()  # `nonfinite` came along
    assert twin.param_groups[0]["params"][0].isfinite().all()


def test_copied_hooks_and_closures(rule: str, copied: Callable[[Any], Any]) -> None:
    """A copy works with hooks, groups and closures like a new optimizer."""
    twin = copied(ours(rule)(draw(((3,),)), lr=0.1))
    seen: list[str] = []
    twin.register_step_post_hook(lambda *_: seen.append("post"))
    twin.add_param_group({"params": draw(((4,),))})
    train(twin, 2)
    assert seen == ["post", "post"]
    assert twin.step(lambda: 3.5) == 3.5
