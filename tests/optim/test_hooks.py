"""Hooks get the same arguments as from torch's optimizers, and their changes take effect."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import asyncopt

from .twins import Twins, assert_same_state, ours, theirs


def describe(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What a step hook was called with, without the optimizer itself."""
    assert isinstance(args[0], torch.optim.Optimizer)
    return args[1:], dict(kwargs)


@pytest.mark.parametrize("reach", ["own", "global"])
def test_step_hooks(rule: str, reach: str) -> None:
    """However `step` is called: without a closure, with one by position, and by name."""
    seen: dict[type, list[Any]] = {}
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)

    def loss() -> float:
        return 7.0

    for cls in (theirs(rule), ours(rule)):
        optimizer = cls([param])
        calls = seen[cls] = []

        def before(optimizer: Any, args: Any, kwargs: Any, calls: list[Any] = calls) -> None:
            calls.append(("before", *describe(args, kwargs)))

        def after(optimizer: Any, args: Any, kwargs: Any, calls: list[Any] = calls) -> None:
            calls.append(("after", *describe(args, kwargs)))

        if reach == "own":
            handles = [
                optimizer.register_step_pre_hook(before),
                optimizer.register_step_post_hook(after),
            ]
        else:
            handles = [
                register_optimizer_step_pre_hook(before),
                register_optimizer_step_post_hook(after),
            ]
        try:
            calls.append(optimizer.step())
            calls.append(optimizer.step(loss))
            calls.append(optimizer.step(closure=loss))
        finally:
            for handle in handles:
                handle.remove()
        assert optimizer.step(loss) == optimizer.step(closure=loss) == 7
    assert seen[ours(rule)] == seen[theirs(rule)]
    assert ("before", (), {"closure": loss}) in seen[ours(rule)]


def test_step_hook_replaces_the_closure(rule: str) -> None:
    """A pre-hook may return other arguments."""
    for cls in (theirs(rule), ours(rule)):
        param = nn.Parameter(torch.ones(3))
        optimizer = cls([param])
        optimizer.register_step_pre_hook(lambda o, args, kwargs: (args, {"closure": lambda: 3.0}))
        assert optimizer.step(closure=lambda: 5.0) == 3


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("how", ["touched", "dense"])
def test_state_dict_hooks(rule: str, how: str, shared: bool) -> None:
    """They see the optimizer before, and after it the dict that is returned, entries of users too.

    The caller gets the dict that the post-hook returns.
    """
    twins = Twins(rule, extra={"sparse_updates": how})
    twins.step(3)
    if shared:
        twins.actual.share_memory(1)
    for optimizer, params in twins.sides:
        optimizer.state["everywhere"] = 5
        optimizer.state["counts"] = {"seen": 3, "names": ["a"]}
        optimizer.state[params[0]]["note"] = "of a user"
    seen: dict[int, list[Any]] = {}
    for optimizer, _ in twins.sides:
        calls = seen[id(optimizer)] = []
        optimizer.register_state_dict_pre_hook(
            lambda optimizer, calls=calls: calls.append(("before", type(optimizer).__name__))
        )
        optimizer.register_state_dict_post_hook(
            lambda optimizer, saved, calls=calls: calls.append(("after", copy.deepcopy(saved)))
        )
        optimizer.register_state_dict_post_hook(
            lambda optimizer, saved: {"only": sorted(map(str, saved["state"]))}
        )
    assert twins.actual.state_dict() == twins.expected.state_dict()
    (before, (_, expected)), (before2, (_, actual)) = (seen[id(o)] for o, _ in twins.sides)
    assert before == before2 == ("before", rule)
    for saved in (actual, expected):
        assert saved["state"].pop("everywhere") == 5
        assert saved["state"].pop("counts") == {"seen": 3, "names": ["a"]}
        assert saved["state"][0].pop("note") == "of a user"
        saved["state"] = {k: v for k, v in saved["state"].items() if v}
    assert_same_state(actual, expected)


def test_load_state_dict_hooks(rule: str) -> None:
    """Before loading they see, and may replace, a shallow copy; afterwards the optimizer."""
    twins, other = Twins(rule), Twins(rule, options={"lr": 0.5})
    other.step(2)
    order: list[Any] = []
    for (optimizer, params), (source, _) in zip(twins.sides, other.sides, strict=True):
        calls: list[Any] = []
        replacement = source.state_dict()
        given = optimizer.state_dict()

        def before(
            optimizer: Any, saved: Any, calls: list[Any] = calls, new: Any = replacement
        ) -> Any:
            calls.append(("before", sorted(saved), optimizer.param_groups[0]["lr"]))
            return new

        def after(optimizer: Any, calls: list[Any] = calls) -> None:
            calls.append(("after", optimizer.param_groups[0]["lr"]))

        optimizer.register_load_state_dict_pre_hook(before)
        optimizer.register_load_state_dict_post_hook(after)
        optimizer.load_state_dict(given)
        order.append(calls)
        assert optimizer.param_groups[0]["params"][0] is params[0]
    assert order[0] == order[1]
    assert order[0][1] == ("after", 0.5)
    twins.step(2)
    twins.check()


def test_copies_of_state_with_other_entries() -> None:
    """Deep copies and shared optimizers take entries that are no dicts of tensors."""
    param = nn.Parameter(torch.ones(3))
    optimizer: Any = asyncopt.Adam([param])
    optimizer.state["everywhere"] = 5
    param.grad = torch.ones(3)
    optimizer.step()
    clone = copy.deepcopy(optimizer)
    assert clone.state["everywhere"] == 5
    optimizer.share_memory(1)
    optimizer.state["everywhere"] = 5
    assert copy.deepcopy(optimizer).state["everywhere"] == 5
    assert isinstance(optimizer.state_dict()["state"][0]["exp_avg"], Tensor)
