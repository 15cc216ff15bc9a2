"""The optimizers' interface: names, signatures, defaults, texts."""

import inspect
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import asyncopt
from asyncopt.optim.options import Options

from .twins import RULES, SYNCS, Twins, ours, parameters_of, theirs

#: Keyword-only arguments of our constructors beyond torch's, with their defaults.
OWN = {
    "sync": "hogwild",
    "audit": False,
    "state_dtype": None,
    "flat_grads": False,
    "nonfinite": None,
    "staleness_lr": None,
    "delay_compensation": None,
    "sparse_updates": "touched",
}


def test_lists() -> None:
    """The lists name what can be used: every rule a class, every sync accepted."""
    assert len(RULES) == len(set(RULES)) >= 7
    assert len(SYNCS) == len(set(SYNCS)) >= 6
    assert all(isinstance(name, str) for name in (*RULES, *SYNCS))


def test_signature(rule: str) -> None:
    """torch's parameters come first, same names, kinds, order and defaults; ours by keyword."""
    expected, actual = parameters_of(theirs(rule)), parameters_of(ours(rule))
    assert list(actual)[: len(expected)] == list(expected)
    for name, parameter in expected.items():
        assert actual[name].kind == parameter.kind, name
        assert actual[name].default == parameter.default, name
    *only_some, sync, others = [v for k, v in actual.items() if k not in expected]
    has_second_moment = rule in ("Adagrad", "Adam", "AdamW")
    assert [p.name for p in only_some] == (["rowwise"] if has_second_moment else [])
    assert all((p.default, p.kind) == (False, p.KEYWORD_ONLY) for p in only_some)
    assert (sync.name, sync.default, sync.kind) == ("sync", OWN["sync"], sync.KEYWORD_ONLY)
    assert (others.kind, others.annotation) == (others.VAR_KEYWORD, "Unpack[Options]")
    ours(rule)([Parameter(torch.ones(2))], **OWN)
    with pytest.raises(TypeError, match="unexpected keyword argument 'syncs'"):
        ours(rule)([Parameter(torch.ones(2))], syncs="mutex")


def test_options() -> None:
    """All optimizers take the keywords of their base class, with its defaults."""
    parameters = inspect.signature(asyncopt.optim.Optimizer.__init__).parameters.values()
    taken = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert taken == OWN
    assert {"sync", *Options.__annotations__} == OWN.keys()
    assert all(f" {name}: " in str(asyncopt.optim.Optimizer.__doc__) for name in OWN)


def test_classes(rule: str) -> None:
    """An optimizer is torch's Optimizer and asyncopt's, documented, named as its namesake."""
    cls = ours(rule)
    assert issubclass(cls, asyncopt.optim.Optimizer)
    assert issubclass(cls, torch.optim.Optimizer)
    assert cls.__name__ == rule
    assert getattr(asyncopt.optim, rule) is cls
    assert cls.__doc__
    assert cls.__doc__ != theirs(rule).__doc__


def test_defaults_and_groups(rule: str) -> None:
    """`defaults` and the groups hold torch's keys and values, and nothing of ours."""
    twins = Twins(rule)
    assert twins.actual.defaults == twins.expected.defaults
    expected, actual = (
        [{k: v for k, v in g.items() if k != "params"} for g in o.param_groups]
        for o, _ in twins.sides
    )
    assert actual == expected


def test_repr(rule: str) -> None:
    """Prints as torch's does, line for line; lines of our own may follow."""
    twins = Twins(rule)
    lines = repr(twins.actual).splitlines()
    for line in repr(twins.expected).splitlines()[:-1]:
        assert line in lines
    assert lines[0].startswith(rule)


def test_positional_arguments(rule: str) -> None:
    """torch's positional arguments can be given by position."""
    positional = [
        p.default
        for p in parameters_of(theirs(rule)).values()
        if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    given = [0.037, *positional[1:]]
    optimizer = ours(rule)([Parameter(torch.ones(2))], *given)
    assert optimizer.param_groups[0]["lr"] == 0.037
    with pytest.raises(TypeError, match="positional"):
        ours(rule)([Parameter(torch.ones(2))], *given, *[None] * 20)


def test_alone_it_is_not_shared(rule: str) -> None:
    """Until `share_memory` there is no store, the ledger is empty and `pull` does nothing."""
    twins = Twins(rule, extra={"sync": "seqlock"})
    twins.step(2)
    assert twins.actual.store is None
    assert twins.actual.ledger().pushes == 0
    twins.actual.pull()
    twins.check()


def test_params_from_a_generator(rule: str) -> None:
    """Any iterable of parameters will do; the groups keep their order."""
    params = [Parameter(torch.ones(i + 1)) for i in range(3)]
    optimizer: Any = ours(rule)(p for p in params)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in params]


def test_repr_is_torchs_with_sync_and_store(rule: str) -> None:
    twins = [kind([Parameter(torch.zeros(2))], lr=0.5) for kind in (ours(rule), theirs(rule))]
    first, *groups = repr(twins[1]).splitlines()
    assert repr(twins[0]).splitlines() == [first, "sync: hogwild, not shared", *groups]
    twins[0].share_memory(workers=1)
    shared = repr(twins[0]).splitlines()
    assert shared == [first, f"sync: hogwild, {twins[0].store!r}", *groups]
