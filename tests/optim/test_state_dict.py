"""State dictionaries travel between torch.optim and asyncopt at any moment."""

import collections
import copy
import io
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from .twins import (
    COMBINED,
    NUMBERS,
    Twins,
    assert_close,
    assert_same_state,
    bytes_of,
    draw,
    options_of,
    ours,
    theirs,
)

MOMENTS = (0, 1, 2, 7)


def twin_with(rule: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> Twins:
    """Twins over a few sizes, the scalar and the empty tensor among them."""
    return Twins(rule, draw(((17,), (7, 7), (), (0,)), dtype), options)


@pytest.mark.parametrize("after", MOMENTS)
@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_into_torch_and_back(rule: str, options: dict[str, Any], after: int) -> None:
    """asyncopt -> torch and torch -> asyncopt mid-training: the run continues unchanged."""
    straight = twin_with(rule, options)
    straight.step(after)
    values = [p.detach() for p in straight.expected_params]
    crossed = Twins(rule, values, options)
    crossed.expected.load_state_dict(copy.deepcopy(straight.actual.state_dict()))
    crossed.actual.load_state_dict(copy.deepcopy(straight.expected.state_dict()))
    for _ in range(10):
        straight.gradients()
        for (_, given), (_, taken) in zip(straight.sides, crossed.sides, strict=True):
            for a, b in zip(given, taken, strict=True):
                b.grad = a.grad.clone()
        for twins in (straight, crossed):
            twins.expected.step()
            twins.actual.step()
    straight.check()
    crossed.check()
    for a, b in zip(straight.expected_params, crossed.params, strict=True):
        assert_close(b, a)


def test_structure_equals_torchs(rule: str, dtype: torch.dtype) -> None:
    """Same keys, dtypes, shapes and values as torch, before and after steps, also `step`."""
    twins = twin_with(rule, {}, dtype)
    assert twins.actual.state_dict()["param_groups"] == twins.expected.state_dict()["param_groups"]
    twins.step(3)
    assert_same_state(twins.actual.state_dict(), twins.expected.state_dict())


def test_state_before_the_first_step(rule: str) -> None:
    """Code that looks into `opt.state` before a step finds what torch has there."""
    twins = Twins(rule)
    assert_same_state(twins.actual.state_dict(), twins.expected.state_dict())


@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_torch_save_and_load(rule: str, options: dict[str, Any]) -> None:
    """`torch.save` and `torch.load(weights_only=True)` round-trip it bit for bit."""
    twins = twin_with(rule, options)
    twins.step(3)
    file = io.BytesIO()
    torch.save(twins.actual.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert_same_state(loaded, twins.actual.state_dict(), rtol=1e-30)
    fresh = ours(rule)([Parameter(p.detach().clone()) for p in twins.params], **options)
    fresh.load_state_dict(loaded)
    assert_same_state(fresh.state_dict(), twins.actual.state_dict(), rtol=1e-30)


def test_loading_leaves_the_dictionary_alone(rule: str) -> None:
    """`load_state_dict` changes nothing in what it was given, groups included."""
    twins = twin_with(rule, {})
    twins.step(3)
    given = copy.deepcopy(twins.actual.state_dict())
    kept = copy.deepcopy(given)
    twins.actual.load_state_dict(given)
    twins.actual.param_groups[0]["lr"] = 77.0
    assert_same_state(given, kept, rtol=1e-30)


def test_loading_again_while_training(rule: str) -> None:
    """Going back to an earlier state takes effect at the next step, more than once."""
    twins = twin_with(rule, {})
    twins.step(2)
    saved = [copy.deepcopy(o.state_dict()) for o, _ in twins.sides]
    for _ in range(3):
        twins.step(4)
        for (optimizer, _), state in zip(twins.sides, saved, strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))
    twins.step(4)
    twins.check()


def test_hyperparameters_are_loaded(rule: str) -> None:
    """The groups' options come from the dictionary, not from the constructor."""
    options = {"lr": 0.3, "weight_decay": 0.2}
    source = theirs(rule)([Parameter(torch.ones(3))], **options)
    twins = Twins(rule, draw(((3,),)))
    for optimizer, _ in twins.sides:
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
    assert twins.actual.param_groups[0]["lr"] == 0.3
    twins.step(5)
    twins.check()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_loading_casts_to_the_parameters_dtype(rule: str, dtype: torch.dtype) -> None:
    """State of another dtype is converted, `step` aside, as torch does."""
    source = Twins(rule, draw(((17,),), dtype))
    source.gradients()
    source.expected.step()
    twins = Twins(rule, draw(((17,),)))
    for optimizer, _ in twins.sides:
        optimizer.load_state_dict(copy.deepcopy(source.expected.state_dict()))
    assert_same_state(twins.actual.state_dict(), twins.expected.state_dict())
    twins.step(5)
    twins.check()


def test_older_dictionaries_load(rule: str) -> None:
    """Options that torch added over the years may be missing; `step` may be a number."""
    twins = Twins(rule)
    twins.step(3)
    for optimizer, _ in twins.sides:
        state = copy.deepcopy(optimizer.state_dict())
        for group in state["param_groups"]:
            for added in ("maximize", "foreach", "fused", "capturable", "differentiable"):
                group.pop(added, None)
        for values in state["state"].values():
            if "step" in values:
                values["step"] = values["step"].item()
        optimizer.load_state_dict(state)
    twins.step(5)
    twins.check()


def test_mismatched_dictionaries_are_refused(rule: str) -> None:
    """Other group counts or sizes raise torch's errors and leave the optimizer working."""
    twins = Twins(rule)
    twins.step(2)
    one = theirs(rule)([Parameter(torch.ones(3))]).state_dict()
    with pytest.raises(ValueError, match="doesn't match the size"):
        twins.actual.load_state_dict(one)
    two = theirs(rule)([{"params": [Parameter(torch.ones(3))]} for _ in range(2)]).state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        twins.actual.load_state_dict(two)
    twins.step(2)
    twins.check()


def test_state_of_the_wrong_shape_is_refused(rule: str) -> None:
    """A dictionary of another model never makes the step read or write out of bounds."""
    options = {name: v[1] for name, v in options_of(rule).items() if name == "momentum"}
    big = Twins(rule, draw(((400,),)), options)
    big.step(2)
    small = Twins(rule, draw(((3,),)), options)
    before = small.params[0].detach().clone()
    small.gradients()

    def load_and_step() -> None:
        small.actual.load_state_dict(big.actual.state_dict())
        small.actual.step()

    with pytest.raises((ValueError, RuntimeError), match=r"shape|size|400"):
        load_and_step()
    assert torch.equal(small.params[0], before)


def test_hooks(rule: str) -> None:
    """state_dict and load_state_dict hooks run in order and may replace the dictionary."""
    logs = []
    for cls in (theirs(rule), ours(rule)):
        optimizer = cls([Parameter(torch.ones(3))])
        log: list[str] = []

        def add_mark(opt: Any, state: dict[str, Any], log: list[str] = log) -> dict[str, Any]:
            log.append("post")
            return {**state, "mark": 1}

        def strip_mark(opt: Any, state: dict[str, Any], log: list[str] = log) -> dict[str, Any]:
            log.append(f"load pre {state['mark']}")
            return {k: v for k, v in state.items() if k != "mark"}

        optimizer.register_state_dict_pre_hook(lambda opt, log=log: log.append("pre"))
        optimizer.register_state_dict_pre_hook(
            lambda opt, log=log: log.append("first"), prepend=True
        )
        optimizer.register_state_dict_post_hook(add_mark)
        optimizer.register_load_state_dict_pre_hook(strip_mark)
        optimizer.register_load_state_dict_post_hook(lambda opt, log=log: log.append("load post"))
        state = optimizer.state_dict()
        assert state["mark"] == 1
        optimizer.load_state_dict(state)
        logs.append(log)
    assert logs[1] == logs[0] == ["first", "pre", "post", "load pre 1", "load post"]


def test_named_parameters(rule: str) -> None:
    """Names given with the parameters are in the groups and in the dictionary."""
    twins = Twins(rule, build=lambda params: [(f"layer.{i}", p) for i, p in enumerate(params)])
    twins.step(3)
    assert twins.actual.param_groups[0]["param_names"] == ["layer.0", "layer.1"]
    twins.check()
    with pytest.raises(ValueError, match="with/without names"):
        twins.actual.add_param_group({"params": [Parameter(torch.ones(2))]})
    twins.step(3)
    twins.check()


def tensors_in_state(optimizer: Any, p: Parameter) -> list[str]:
    """Names of a parameter's state tensors that have the parameter's shape."""
    return [k for k, v in optimizer.state[p].items() if getattr(v, "shape", None) == p.shape]


@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_state_tensors_edited_in_place(rule: str, options: dict[str, Any]) -> None:
    """`opt.state[p]["exp_avg"].zero_()` and the like are what the next step starts from."""
    twins = Twins(rule, options=options)
    twins.step(3)
    for optimizer, params in twins.sides:
        for key in tensors_in_state(optimizer, params[0]):
            optimizer.state[params[0]][key].mul_(0.25)
        if "step" in optimizer.state[params[1]]:
            optimizer.state[params[1]]["step"].fill_(1.0)
    twins.step(3)
    twins.check()


@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_state_tensors_replaced(rule: str, options: dict[str, Any]) -> None:
    """A tensor put into `opt.state` is used and updated in place; the old one is left alone.

    A number put there is used by value.
    """
    twins = Twins(rule, options=options)
    twins.step(3)
    placed, old, kept = {}, {}, {}
    for optimizer, params in twins.sides:
        state = optimizer.state[params[0]]
        for key in list(state):
            old[key], kept[key] = state[key], state[key].clone()
            state[key] = placed[key] = state[key] * 0.5
    twins.step(3)
    twins.check()
    for key, tensor in placed.items():
        if key not in NUMBERS:
            assert twins.actual.state[twins.params[0]][key] is tensor
            assert torch.equal(old[key], kept[key])


@pytest.mark.parametrize("how", ["new", "clear", "delete one", "empty one"])
@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_state_reset_by_the_user(rule: str, options: dict[str, Any], how: str) -> None:
    """State that the user threw away starts again from nothing, as in torch."""
    twins = Twins(rule, options=options)
    twins.step(3)
    for optimizer, params in twins.sides:
        if how == "new":
            optimizer.state = collections.defaultdict(dict)
        elif how == "clear":
            optimizer.state.clear()
        elif params[0] in optimizer.state:
            if how == "delete one":
                del optimizer.state[params[0]]
            else:
                optimizer.state[params[0]] = {}
    twins.step(3)
    twins.check()


@pytest.mark.parametrize("is_shared", [False, True])
def test_state_that_does_not_fit_changes_nothing(rule: str, is_shared: bool) -> None:
    """Neither another rule's nor that of another model, of which the first tensor would fit."""
    values = draw(((5,), (4,)))
    options = {"momentum": 0.9} if rule == "SGD" else {}
    twins = Twins(rule, values, options)
    twins.step(2)
    if is_shared:
        twins.actual.share_memory(workers=1)
    before = bytes_of(twins.actual)
    other = Twins("RMSprop" if rule == "SGD" else "SGD", values, {"momentum": 0.9})
    other.step(3)
    with pytest.raises(ValueError, match=rf"state_dict: expected one of {rule}, got a group with"):
        twins.actual.load_state_dict(other.expected.state_dict())
    other = Twins(rule, draw(((5,), (3,))), options)
    other.step(3)
    with pytest.raises(ValueError, match=r"of params\[1\]: expected shape \(4,\), got \(3,\)"):
        twins.actual.load_state_dict(other.expected.state_dict())
    assert bytes_of(twins.actual) == before
    twins.step(2)
    twins.check()
