"""Contents of a checkpoint: all state, bit for bit, restored only into matching objects."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

import asyncopt
from asyncopt.errors import CheckpointError
from asyncopt.run import random_states
from asyncopt.run.checkpoint import resume, save
from asyncopt.run.checkpoint.codec import decode, encode
from asyncopt.run.checkpoint.ledgers import add_ledgers, ledger_from_json, ledger_to_json
from asyncopt.store import Ledger

RULES = [name for name in asyncopt.rules() if hasattr(asyncopt, name)]
SYNCS = asyncopt.syncs()

Parts = tuple[torch.nn.Module, Any, Any]


class Net(torch.nn.Sequential):
    """Convolution, running statistics, and a frozen bias."""

    def __init__(self, kernel: int = 3) -> None:
        conv, dense = torch.nn.Conv2d(3, 4, kernel), torch.nn.Linear(16, 2)
        super().__init__(conv, torch.nn.BatchNorm2d(4), torch.nn.Flatten(), dense)
        conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
        dense.bias.requires_grad_(False)
        self.groups = [
            {"params": list(conv.parameters())},
            {"params": [*self[1].parameters(), dense.weight], "lr": 0.02},
        ]


def make(rule: str = "Adam", sync: str = "hogwild", seed: int = 0, **options: Any) -> Parts:
    """A model, its optimizer and its schedule."""
    torch.manual_seed(seed)
    model = Net()
    optimizer = getattr(asyncopt, rule)(model.groups, lr=0.01, sync=sync, **options)
    return model, optimizer, lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)


def step(parts: Parts, seeds: range) -> None:
    model, optimizer, scheduler = parts
    for seed in seeds:
        x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        scheduler.step()


def bits(item: Any) -> Any:
    """A state dict with every tensor as its bytes."""
    if isinstance(item, torch.Tensor):
        dense = item.detach().contiguous()
        return dense.dtype, tuple(dense.shape), dense.view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(item, dict):
        return {key: bits(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [bits(value) for value in item]
    return item


def state(parts: Parts) -> list[Any]:
    model, optimizer, scheduler = parts
    optimizer.state_dict()  # brings replicas up to date
    return bits([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()])  # type: ignore[no-any-return]


# --- There and back


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_training_goes_on_as_if_uninterrupted(tmp_path: Path, rule: str, shared: bool) -> None:
    """The reference is the very run that was saved, going on."""
    parts, others = make(rule), make(rule, seed=1)
    if shared:
        parts[1].share_memory(2)
        others[1].share_memory(2)
    step(parts, range(4))
    save(parts, tmp_path)
    saved = state(parts)
    found = resume(tmp_path)
    assert found is not None
    assert found.step == (4 if shared else 0)
    assert state(others) != saved
    found.restore(others)
    assert state(others) == saved
    for each in (parts, others):
        step(each, range(4, 8))
    assert state(others) == state(parts)
    assert not shared or others[1].store.version == 8


@pytest.mark.slow
@pytest.mark.parametrize("after", SYNCS)
@pytest.mark.parametrize("before", SYNCS)
def test_the_sync_may_change(tmp_path: Path, before: str, after: str) -> None:
    """Also into a store that has taken pushes, and has its newest version anywhere."""
    parts, others = make(sync=before), make(sync=after, seed=1)
    for each in (parts, others):
        each[1].share_memory(2)
    step(parts, range(3))
    step(others, range(10, 15))
    save(parts, tmp_path)
    found = resume(tmp_path)
    assert found is not None
    found.restore(others)
    assert state(others) == state(parts)
    assert others[1].store.version == 3
    for each in (parts, others):
        step(each, range(3, 6))
    assert state(others) == state(parts)


def test_stochastic_rounding_goes_on(tmp_path: Path) -> None:
    parts, others = (make(seed=seed, state_dtype=torch.bfloat16) for seed in (0, 1))
    step(parts, range(3))
    save(parts, tmp_path)
    found = resume(tmp_path)
    assert found is not None
    found.restore(others)
    for each in (parts, others):
        step(each, range(3, 9))
    assert state(others) == state(parts)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 2, 5], gamma=0.5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.8)], milestones=[3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 3), lr_scheduler.StepLR(o, 2)]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_goes_on(tmp_path: Path, name: str) -> None:
    def made(seed: int) -> Parts:
        model, optimizer, _ = make(seed=seed)
        for group in optimizer.param_groups:
            del group["initial_lr"]
        return model, optimizer, SCHEDULERS[name](optimizer)

    parts, others = made(0), made(1)
    step(parts, range(4))
    save({"all": [*parts]}, tmp_path)
    found = resume(tmp_path)
    assert found is not None
    found.restore({"all": [*others]})
    for each in (parts, others):
        step(each, range(4, 8))
    assert state(others) == state(parts)


def test_plateau_and_tensor_rates(tmp_path: Path) -> None:
    def made() -> tuple[Any, Any]:
        optimizer = asyncopt.SGD([torch.nn.Parameter(torch.zeros(3))], lr=torch.tensor(0.1))
        return optimizer, lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)

    (optimizer, plateau), others = made(), made()
    for loss in (3.0, 2.0, 2.5, 2.6):
        plateau.step(loss)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.001)
    save((optimizer, plateau), tmp_path)
    found = resume(tmp_path)
    assert found is not None
    rate = others[0].param_groups[0]["lr"]
    found.restore(others)
    assert others[0].param_groups[0]["lr"] is rate
    assert bits(others[1].state_dict()) == bits(plateau.state_dict())
    assert bits(others[0].state_dict()) == bits(optimizer.state_dict())


class Odd(torch.nn.Module):
    """Tensors of every kind, some in one another's memory."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.loose = torch.nn.Parameter(torch.full((3,), float(value)), requires_grad=False)
        self.tied = self.loose
        whole = torch.full((6,), value)
        self.register_buffer("low", whole[:4])
        self.register_buffer("high", whole[2:])
        self.register_buffer("hidden", torch.tensor(value), persistent=False)
        self.register_buffer("flag", torch.tensor([value > 1]))
        self.register_buffer("empty", torch.zeros(0, 2))
        self.register_buffer("short", torch.full((2, 2), float(value), dtype=torch.float16).T)
        self.register_buffer("brain", torch.full((3,), float(value), dtype=torch.bfloat16))
        self.register_buffer("bytes", torch.full((3,), value, dtype=torch.uint8))


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    one, two = Odd(1), Odd(2)
    save([one, one], tmp_path)
    found = resume(tmp_path)
    assert found is not None
    found.restore([two, two])
    assert bits(two.state_dict()) == bits(one.state_dict())
    assert two.hidden == 2  # it is not persistent
    assert two.tied is two.loose
    assert two.loose.tolist() == [1.0] * 3


def test_parameters_without_a_module(tmp_path: Path) -> None:
    def made(value: float) -> Any:
        return asyncopt.SGD([torch.full((2,), value, requires_grad=True)], lr=0.1, momentum=0.9)

    one, two = made(1.0), made(2.0)
    where = save(one, tmp_path)
    found = asyncopt.run.checkpoint.load(where)
    assert sorted(found.tensors) == ["optimizers.0.params.0", *_state_names(one)]
    found.restore(two)
    assert bits(two.state_dict()) == bits(one.state_dict())
    assert two.param_groups[0]["params"][0].tolist() == [1.0, 1.0]


def _state_names(optimizer: Any) -> list[str]:
    (entries,) = optimizer.state.values()
    return sorted(f"optimizers.0.state.0.{name}" for name in entries)


# --- Mismatches


def refusals() -> dict[str, tuple[Callable[[], Any], str]]:
    def with_model(change: Callable[[Any], object]) -> Callable[[], Parts]:
        def made() -> Parts:
            parts = make(seed=1)
            change(parts[0])
            return parts

        return made

    def other_shape() -> Parts:
        model = Net(kernel=2)
        optimizer = asyncopt.Adam(model.groups)
        return model, optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 9)

    def other_schedule() -> Parts:
        model, optimizer, _ = make(seed=1)
        return model, optimizer, lr_scheduler.ExponentialLR(optimizer, 0.9)

    return {
        "another rule": (lambda: make("SGD"), "expected Adam, as in the checkpoint, got SGD"),
        "no schedule": (lambda: make()[:2], "expected 1 schedulers, as in the checkpoint, got 0"),
        "no model": (lambda: make()[1:], "expected 1 modules"),
        "more state": (
            lambda: make(amsgrad=True),
            r"got others: optimizers\.0\.state\.0\.max_exp_avg_sq, .*are not in it",
        ),
        "a buffer more": (
            with_model(lambda m: m.register_buffer("extra", torch.zeros(1))),
            r"modules\.0\.extra are not in it",
        ),
        "a buffer less": (
            with_model(lambda m: setattr(m[1], "running_var", None)),
            r"modules\.0\.1\.running_var are missing",
        ),
        "another dtype": (
            lambda: make(state_dtype=torch.bfloat16),
            r"state\.0\.exp_avg: expected float32 of shape \(4, 3, 3, 3\), .* got bfloat16",
        ),
        "another shape": (other_shape, r"modules\.0\.0\.weight: .* got .* \(4, 3, 2, 2\)"),
        "another schedule": (other_schedule, "expected CosineAnnealingLR, .* got ExponentialLR"),
    }


@pytest.mark.parametrize("case", refusals())
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_what_does_not_fit_changes_nothing(tmp_path: Path, case: str, shared: bool) -> None:
    parts = make()
    step(parts, range(2))
    save(parts, tmp_path)
    found = resume(tmp_path)
    assert found is not None
    build, message = refusals()[case]
    others = build()
    for each in others:
        if isinstance(each, torch.optim.Optimizer):
            each.step()  # without gradients: allocates the state
            if shared:
                each.share_memory(2)  # type: ignore[attr-defined]
    before = bits([copy.deepcopy(each.state_dict()) for each in others])
    with pytest.raises(CheckpointError, match=message):
        found.restore(others)
    assert bits([each.state_dict() for each in others]) == before


def test_what_is_no_plain_data_is_named(tmp_path: Path) -> None:
    class Factor:
        def __init__(self) -> None:
            self.table = object()

        def __call__(self, epoch: int) -> float:
            return 1.0

    model, optimizer, _ = make()
    scheduler = lr_scheduler.LambdaLR(optimizer, Factor())
    with pytest.raises(CheckpointError, match=r"lr_lambdas\.0\.table: expected .* got object"):
        save((model, scheduler), tmp_path)
    with pytest.raises(CheckpointError, match=r"meta\.when: expected .* got set"):
        save(model, tmp_path, meta={"when": {1}})
    assert list(tmp_path.iterdir()) == []


def test_an_optimizer_that_would_not_be_saved_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    with pytest.raises(CheckpointError, match="args: expected optimizers of asyncopt, got SGD of"):
        save((model, optimizer), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- Plain data

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.builds(torch.tensor, st.lists(st.floats(width=32), max_size=3))
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers() | st.just("!"), inner, max_size=3)
        | st.dictionaries(st.integers(), st.integers(), max_size=3).map(Counter)
    ),
    max_leaves=12,
)


def spelled(value: Any) -> str:
    """With types, which == does not look at, and NaN, which it does not find."""
    if isinstance(value, dict):
        entries = (f"{spelled(k)}: {spelled(v)}" for k, v in value.items())
        return f"{type(value).__name__}({', '.join(entries)})"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(spelled, value))})"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {value.numpy().tobytes()!r} {tuple(value.shape)}"
    return repr(value)


@given(trees)
def test_plain_data_come_back_as_they_were(value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(encode(value, "value", tensors), allow_nan=False)
    assert spelled(decode(json.loads(text), tensors)) == spelled(value)


def test_numpy_numbers_become_plain_ones() -> None:
    assert encode({"n": np.int64(3), "x": np.float32(0.5)}, "v", {}) == {"n": 3, "x": 0.5}


# --- Random states


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.random()),  # noqa: NPY002
        float(np.random.standard_normal()),  # noqa: NPY002
        float(torch.rand(())),
        float(torch.randn(())),
    ]


def test_random_states_come_back() -> None:
    """Also between two Gaussian numbers, which the generators make in pairs."""
    draw()
    seen = random_states.capture()
    assert len(seen) < 20_000
    first = [draw() for _ in range(3)]
    random_states.restore(seen)
    assert [draw() for _ in range(3)] == first
    assert random_states.capture() != seen


@pytest.mark.parametrize("key", ["torch", "numpy", "python"])
def test_damaged_random_states_change_nothing(key: str) -> None:
    state = json.loads(random_states.capture())
    state[key] = state["python" if key == "numpy" else "numpy"]
    before = random_states.capture()
    with pytest.raises(CheckpointError, match="random states: expected those of this torch"):
        random_states.restore(json.dumps(state).encode())
    assert random_states.capture() == before


# --- Ledgers


def test_ledgers_come_back_and_add_up() -> None:
    parts = make()
    parts[1].share_memory(2)
    step(parts, range(5))
    ledger = parts[1].ledger()
    found = ledger_from_json(json.loads(json.dumps(ledger_to_json(ledger))))
    assert repr(found) == repr(ledger)
    twice = add_ledgers(found, Ledger(0, ()), ledger)
    assert (twice.version, twice.pushes, len(twice.workers)) == (10, 10, 1)
    assert twice.staleness.counts.tolist() == (2 * ledger.staleness.counts).tolist()
