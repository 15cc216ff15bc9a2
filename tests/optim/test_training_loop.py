"""Use of an optimizer in training loops: groups, closures, hooks, missing gradients."""

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from .twins import Twins, assert_close, draw, options_of, ours, theirs


def group_per_option(rule: str, params: list[Parameter]) -> list[dict[str, Any]]:
    """One group per option of the rule, with that option alone changed."""
    changed = [{name: values[1]} for name, values in options_of(rule).items()]
    return [{"params": [p], **c} for p, c in zip(params, changed, strict=True)]


def test_groups_differ_in_every_option(rule: str, dtype: torch.dtype) -> None:
    """Each group is stepped with its own hyperparameters."""
    values = draw(((9,),) * len(options_of(rule)), dtype)
    twins = Twins(rule, values, build=lambda params: group_per_option(rule, params))
    twins.step(50)
    twins.check()


def test_add_param_group_after_steps(rule: str) -> None:
    """A later group starts its own state; the earlier ones go on."""
    twins = Twins(rule)
    twins.step(5)
    for optimizer, p in zip((twins.expected, twins.actual), twins.add(torch.ones(21)), strict=True):
        optimizer.add_param_group({"params": p, "lr": 0.3, "weight_decay": 0.1})
    twins.step(20)
    twins.check()


def test_groups_edited_in_place(rule: str) -> None:
    """Parameters appended to, replaced in and taken from a group's list, as torch allows."""
    twins = Twins(rule)
    twins.step(3)
    for optimizer, p in zip((twins.expected, twins.actual), twins.add(torch.ones(5)), strict=True):
        optimizer.param_groups[0]["params"].append(p)
    twins.step(3)
    for optimizer, p in zip((twins.expected, twins.actual), twins.add(torch.ones(6)), strict=True):
        dropped = optimizer.param_groups[0]["params"][0]
        optimizer.state.pop(dropped, None)
        optimizer.param_groups[0]["params"][0] = p
    frozen = twins.params[0].detach().clone()
    twins.step(3)
    twins.check()
    assert torch.equal(twins.params[0], frozen)


def test_none_gradients_are_skipped(rule: str, dtype: torch.dtype) -> None:
    """A parameter without gradient keeps its bytes and its state; others are stepped."""
    twins = Twins(rule, draw(((17,), (5,), (16,), (4,)), dtype))
    for step in range(20):
        twins.gradients()
        for _, params in twins.sides:
            params[1].grad = None  # never has one
            if step % 3:
                params[2].grad = None  # now and then
        twins.expected.step()
        twins.actual.step()
    twins.check()
    assert torch.equal(twins.params[1], draw(((17,), (5,)), dtype)[1])


def test_first_gradient_comes_late(rule: str) -> None:
    """State starts at a parameter's first gradient, from the options of that moment."""
    twins = Twins(rule)
    for step in range(8):
        twins.gradients()
        for optimizer, params in twins.sides:
            if step < 4:
                params[1].grad = None
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
    twins.check()


def test_no_gradient_at_all(rule: str) -> None:
    """`step()` before any backward pass changes nothing, twice."""
    twins = Twins(rule)
    for _ in range(2):
        twins.expected.step()
        assert twins.actual.step() is None
    twins.check()
    assert torch.equal(twins.params[0], draw(((17,),))[0])
    twins.step(5)
    twins.check()


def test_zero_gradients_are_not_none(rule: str) -> None:
    """A zero gradient still decays, averages and counts the step."""
    twins = Twins(rule, options={"weight_decay": 0.1})
    twins.step(3)
    for _ in range(5):
        for optimizer, params in twins.sides:
            for p in params:
                p.grad.zero_()
            optimizer.step()
    twins.check()


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(rule: str, set_to_none: bool) -> None:
    """Gradients are dropped, or zeroed in place."""
    twins = Twins(rule)
    twins.step()
    before = [p.grad for p in twins.params]
    twins.actual.zero_grad(set_to_none=set_to_none)
    for p, g in zip(twins.params, before, strict=True):
        if set_to_none:
            assert p.grad is None
        else:
            assert p.grad is g
            assert not g.any()


def test_closure(rule: str) -> None:
    """Called once, with gradients enabled, before the update; its loss is returned."""
    (start,) = draw(((8,),))
    results: list[Any] = []
    for cls in (theirs(rule), ours(rule)):
        p = Parameter(start.clone())
        optimizer = cls([p], lr=0.05)
        calls: list[Any] = []

        def closure(p: Parameter = p, optimizer: Any = optimizer, calls: Any = calls) -> Any:
            assert torch.is_grad_enabled()
            optimizer.zero_grad()
            loss: Any = (p - 1).square().sum()
            loss.backward()
            calls.append(loss)
            return loss

        with torch.no_grad():
            losses = [optimizer.step(closure) for _ in range(20)]
            assert not torch.is_grad_enabled()
        assert len(calls) == 20
        assert all(a is b for a, b in zip(losses, calls, strict=True))
        results.append(p)
    assert_close(results[1], results[0])


def test_step_inside_and_outside_no_grad(rule: str) -> None:
    """Gradient mode is as it was after a step, and the parameter stays a leaf."""
    twins = Twins(rule)
    twins.step()
    assert torch.is_grad_enabled()
    with torch.no_grad():
        twins.step()
        assert not torch.is_grad_enabled()
    assert all(p.is_leaf and p.requires_grad and p.grad_fn is None for p in twins.params)
    twins.check()


def test_an_exception_in_the_closure_leaves_everything(rule: str) -> None:
    """The error passes through; nothing is written and gradient mode is restored."""
    twins = Twins(rule)
    twins.step(2)
    before = [p.detach().clone() for p in twins.params]

    def closure() -> float:
        raise KeyError("from the closure")

    with pytest.raises(KeyError, match="from the closure"):
        twins.actual.step(closure)
    assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(before, twins.params, strict=True))
    twins.step(2)
    twins.check()


def test_hooks_run_in_torchs_order(rule: str) -> None:
    """Local and global step hooks, their arguments and their removal."""
    logs = []
    for cls in (theirs(rule), ours(rule)):
        (p,) = map(Parameter, draw(((4,),)))
        optimizer = cls([p], lr=0.1)
        log: list[Any] = []

        def note(name: str, log: list[Any] = log, p: Parameter = p) -> Any:
            def hook(opt: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                log.append((name, type(opt).__name__, len(args), sorted(kwargs), p.tolist()))

            return hook

        handles = [
            optimizer.register_step_pre_hook(note("pre")),
            register_optimizer_step_pre_hook(note("global pre")),
            optimizer.register_step_post_hook(note("post")),
            register_optimizer_step_post_hook(note("global post")),
        ]
        for _ in range(2):
            p.grad = torch.ones(4)
            optimizer.step()
        for handle in handles:
            handle.remove()
        optimizer.step()
        logs.append(log)
    assert len(logs[1]) == 8
    for expected, actual in zip(*logs, strict=True):
        assert actual[:4] == expected[:4]
        assert actual[4] == pytest.approx(expected[4], rel=1e-6)
    assert logs[1][0][4] != logs[1][3][4]  # the post hooks see the step's result


def test_pre_hook_changes_gradients_and_arguments(rule: str) -> None:
    """The step uses the gradients and arguments that a pre-hook writes or returns."""
    twins = Twins(rule)
    losses = []
    for optimizer, params in twins.sides:

        def halve(opt: Any, args: Any, kwargs: Any, params: Any = params) -> Any:
            for p in params:
                p.grad = p.grad / 2
            return args, {"closure": lambda: 7.0}

        optimizer.register_step_pre_hook(halve)
    for _ in range(5):
        twins.gradients()
        losses += [twins.expected.step(), twins.actual.step()]
    assert losses == [7.0] * 10
    twins.check()


def test_hook_errors_stop_the_step(rule: str) -> None:
    """A pre-hook that returns nonsense is reported as torch reports it."""
    twins = Twins(rule)
    twins.gradients()
    twins.actual.register_step_pre_hook(lambda *_: 1)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        twins.actual.step()
    assert torch.equal(twins.params[0], draw(((17,),))[0])


def test_subclass_overrides_step(rule: str) -> None:
    """A user's subclass that calls `super().step()` trains as its torch counterpart does."""

    def subclass(cls: Any) -> Any:
        class Twice(cls):  # type: ignore[misc]
            def step(self, closure: Any = None) -> Any:
                super().step(closure)
                return super().step(closure)

        return Twice

    values = draw(((6,),))
    results = []
    for cls in (theirs(rule), ours(rule)):
        (p,) = (Parameter(v.clone()) for v in values)
        optimizer = subclass(cls)([p], lr=0.1)
        for _ in range(5):
            p.grad = torch.full((6,), 0.3)
            optimizer.step()
        results.append(p)
    assert_close(results[1], results[0])


def test_profiler_names_the_step(rule: str) -> None:
    """The profiler shows `Optimizer.step#<rule>.step`, as for torch's own."""
    twins = Twins(rule)
    twins.gradients()
    with torch.autograd.profiler.profile() as profile:
        twins.actual.step()
    assert f"Optimizer.step#{rule}.step" in {event.name for event in profile.function_events}


def test_version_counter_is_bumped(rule: str) -> None:
    """Autograd notices a step between forward and backward."""
    twins = Twins(rule)
    p = twins.params[0]
    before = p._version
    loss = p.square().sum()
    twins.gradients()
    twins.actual.step()
    assert p._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_version_counter_of_skipped_parameters(rule: str) -> None:
    """A parameter without gradient was not written: its saved graph stays valid."""
    twins = Twins(rule)
    p, skipped = twins.params
    loss = skipped.square().sum()
    p.grad = torch.ones_like(p)
    twins.actual.step()
    loss.backward()
    assert torch.equal(skipped.grad, 2 * skipped)


def test_data_replaced_between_steps(rule: str) -> None:
    """After `p.data = other` the new memory is stepped and the old one is left alone."""
    twins = Twins(rule)
    twins.step(3)
    for _, params in twins.sides:
        old = params[0].data
        kept = old.clone()
        params[0].data = old * 1.5
    for _ in range(3):
        twins.step()
        assert torch.equal(old, kept)
        for _, params in twins.sides:
            params[1].data = params[1].data.clone()
    twins.check()


def test_data_of_two_parameters_swapped(rule: str) -> None:
    """Exchanging two parameters' memory is followed, state staying with the parameter."""
    twins = Twins(rule, draw(((9,), (9,))))
    twins.step(3)
    for _, (a, b) in twins.sides:
        a.data, b.data = b.data, a.data
    twins.step(3)
    twins.check()


def test_model_converted_before_the_first_step(rule: str) -> None:
    """`model.double()` after building the optimizer steps in float64, as torch allows."""
    twins = Twins(rule)
    has_state = bool(twins.expected.state)  # Adagrad's, which torch leaves in float32
    for _, params in twins.sides:
        for p in params:
            p.data = p.data.double()
    twins.step(10)
    for a, b in zip(twins.expected_params, twins.params, strict=True):
        assert_close(b, a, rtol=1e-6 if has_state else 0.0)


def test_gradient_accumulation(rule: str) -> None:
    """Several backward passes add up in one gradient, whose memory is kept between steps."""
    (x,) = draw(((4, 3),), torch.float64)
    results = []
    for cls in (theirs(rule), ours(rule)):
        torch.manual_seed(1)
        model = nn.Linear(3, 2).double()
        optimizer = cls(model.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad(set_to_none=False)
            for _ in range(3):
                model(x).square().sum().backward()
            optimizer.step()
        results.append(model)
    for a, b in zip(*(m.parameters() for m in results), strict=True):
        assert_close(b, a)


def test_gradient_memory_is_not_kept(rule: str) -> None:
    """Neither gradients nor replaced memory stay alive through the optimizer."""
    twins = Twins(rule)
    twins.step(2)
    grad = weakref.ref(twins.params[0].grad.untyped_storage())
    data = weakref.ref(twins.params[0].data.untyped_storage())
    twins.actual.zero_grad()
    twins.params[0].data = twins.params[0].data.clone()
    assert grad() is None
    assert data() is None


def test_dropping_the_optimizer_frees_everything(rule: str) -> None:
    """No reference cycle or cache keeps it: the last reference gone, the memory is."""
    (p,) = map(Parameter, draw(((9,),)))
    optimizer = ours(rule)([p])
    p.grad = torch.ones(9)
    optimizer.step()
    gone = [weakref.ref(optimizer), weakref.ref(p)]
    del optimizer, p
    assert [r() for r in gone] == [None, None]


def test_threads_and_settings_of_torch_are_left_alone(rule: str) -> None:
    """A step changes neither torch's thread count nor its random state."""
    twins = Twins(rule)
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    twins.gradients()
    twins.actual.step()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), rng)


def test_parameters_without_requires_grad(rule: str) -> None:
    """Frozen parameters may be listed; a gradient set by hand is used, as in torch."""
    twins = Twins(rule)
    for _, params in twins.sides:
        params[1].requires_grad_(False)
    twins.step(5)
    twins.check()
