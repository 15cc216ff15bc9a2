"""`load_state_dict` that raises leaves everything unchanged, for any input."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncopt

from .twins import ALTERNATES, RULES, draw, options_of

SEEDS = 110
"""Hostile dicts for each rule, alone and shared: 1,540 in all."""

RUBBISH: list[Any] = [
    None,
    "abc",
    b"x",
    float("nan"),
    float("inf"),
    -1,
    -0.5,
    10**400,
    [],
    [1.0, 2.0],
    (),
    {},
    {"a": 1},
    {0},
    object(),
    1j,
    True,
]

TENSORS: list[Callable[[], Tensor]] = [
    lambda: torch.ones(0),
    lambda: torch.ones(2, 3, 4),
    lambda: torch.tensor(float("nan")),
    lambda: torch.tensor(-3.0),
    lambda: torch.ones(4, 3, dtype=torch.complex64),
    lambda: torch.ones(4, 3, device="meta"),
    lambda: torch.ones(4, 3).to_sparse(),
    lambda: torch.ones(4, 3).to_sparse_csr(),
    lambda: torch.ones(4, 3, dtype=torch.int8),
    lambda: torch.ones(3).expand(4, 3),
    lambda: torch.tensor([1.0, 2.0]),
]


def rubbish(dice: random.Random) -> Any:
    """Something that does not belong into a state dict."""
    return dice.choice([*RUBBISH, dice.choice(TENSORS)()])


def spoil(saved: dict[str, Any], dice: random.Random) -> None:
    """One change to a state dict, at any depth."""
    groups, state = saved["param_groups"], saved["state"]
    where = dice.randrange(10)
    if where == 0:
        saved[dice.choice(list(saved))] = rubbish(dice)
    elif where == 1:
        del saved[dice.choice(list(saved))]
    elif where == 2 and isinstance(groups, list) and groups:
        groups.append(copy.deepcopy(groups[0])) if dice.random() < 0.5 else groups.pop()
    elif where == 3 and groups:
        dice.choice(groups)["params"] = dice.choice(
            [[0], [0, 0], [5, 6], [1, 0], [], None, "ab", 3]
        )
    elif where in (4, 5) and groups:
        group = dice.choice(groups)
        name = dice.choice(sorted(set(group) - {"params"}))
        if dice.random() < 0.2:
            del group[name]
        else:
            # Options that change which state is kept, too.
            other = ALTERNATES.get(name, 0.5)
            group[name] = other if dice.random() < 0.3 else rubbish(dice)
    elif where == 6 and state:
        state[dice.choice(list(state))] = rubbish(dice)
    elif where == 7:
        state[dice.choice([7, "x", None, (1, 2)])] = rubbish(dice)
    elif state:
        entries = state[dice.choice(list(state))]
        name = dice.choice([*entries, "journal", "momentum_buffer", "step"])
        if dice.random() < 0.2:
            entries.pop(name, None)
        else:
            entries[name] = rubbish(dice)


def look(optimizer: Any) -> Any:
    """Everything that loading must not change: objects, their order, and every byte."""
    state = {
        id(key): {
            name: (id(value), value.clone() if isinstance(value, Tensor) else value)
            for name, value in entries.items()
        }
        for key, entries in optimizer.state.items()
    }
    groups = [
        (
            id(group),
            {k: (id(v), copy.copy(v)) for k, v in group.items() if k != "params"},
            [id(p) for p in group["params"]],
            [(p.detach().clone(), id(p.grad)) for p in group["params"]],
        )
        for group in optimizer.param_groups
    ]
    store = None if optimizer.store is None else optimizer.store.memory.clone()
    return id(optimizer.param_groups), id(optimizer.state), groups, state, store


def same(a: Any, b: Any) -> bool:
    """Equality that looks into tensors, NaN being equal to itself."""
    if isinstance(a, Tensor):
        return bool(torch.equal(a, b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return bool(a is b or a == b)


def trained(rule: str, options: dict[str, Any], shared: bool, how: str, flat: bool) -> Any:
    """An optimizer after two steps, in two groups."""
    params = [nn.Parameter(value) for value in draw(((4, 3), (4, 3)))]
    optimizer = getattr(asyncopt, rule)(
        [{"params": params[:1]}, {"params": params[1:], "lr": 0.05}],
        **options,
        sparse_updates=how,
        flat_grads=flat,
    )
    if shared:
        optimizer.share_memory(1)
    for step in range(2):
        for param in params:
            param.grad = torch.full_like(param, step + 1.0)
        if how == "dense":  # so that rows have pending updates
            index = torch.tensor([[1]])
            params[0].grad = torch.sparse_coo_tensor(index, torch.ones(1, 3), (4, 3))
        optimizer.step()
    return optimizer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:Casting complex")
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("rule", RULES)
def test_a_dict_is_loaded_whole_or_not_at_all(rule: str, shared: bool) -> None:
    """And what was loaded can be stepped, saved and loaded."""
    loaded = refused = 0
    every = {k: v[1] for k, v in options_of(rule).items() if k not in ("nesterov", "lr")}
    for seed in range(SEEDS):
        dice = random.Random(f"{rule} {shared} {seed}")
        options = every if dice.random() < 0.5 else {}
        how = dice.choice(["touched", "dense"])
        optimizer = trained(rule, options, shared, how, flat=dice.random() < 0.3)
        saved = copy.deepcopy(trained(rule, options, False, "touched", False).state_dict())
        try:
            for _ in range(dice.choice([1, 1, 2, 3])):
                spoil(saved, dice)
        except (TypeError, KeyError, IndexError, AttributeError, RuntimeError, ValueError):
            pass  # damaged so much that no further damage is possible
        before = look(optimizer)
        try:
            optimizer.load_state_dict(saved)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError):
            refused += 1
            assert same(look(optimizer), before), f"seed {seed}: {saved}"
        else:
            loaded += 1
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        optimizer.step()
        optimizer.catch_up()
        for entries in optimizer.state_dict()["state"].values():
            if isinstance(entries, dict) and isinstance(entries.get("step"), Tensor):
                assert entries["step"] >= 1
    assert loaded > 5
    assert refused > 5


def test_state_for_which_a_store_has_no_room() -> None:
    """Options that need other state than was shared are refused before anything is written."""
    param = nn.Parameter(torch.ones(3))
    optimizer = asyncopt.SGD([param], lr=0.1)
    optimizer.share_memory(1)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["momentum"] = 0.9
    with pytest.raises(ValueError, match=r"params\[0\]: expected a rule with the state that was"):
        optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["momentum"] = 0.9
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"params\[0\]: expected a rule with the state that was"):
        optimizer.step()
    assert param.tolist() == [1, 1, 1]
