"""The compiled lists define the API: every entry is reachable, and nothing else is offered."""

from __future__ import annotations

import inspect
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import asyncopt
from asyncopt import _core
from asyncopt.optim.kernels import find_kernel, param_dtypes
from asyncopt.optim.kernels import syncs as contracts

from .contract.cases import CASES, DTYPES, SYNCS, Case, dtype_of

ROOT = Path(__file__).parents[1]
KERNELS = {(k["rule"], k["param_dtype"], k["state_dtype"]): k for k in _core.kernels()}
COMPILED = tuple(dict.fromkeys(k["rule"] for k in _core.kernels()))

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def compiled_rule(case: Case) -> tuple[str, Any, dict[str, Any]]:
    """The compiled rule of a case, its optimizer and its only parameter group."""
    optimizer = case.ours([Parameter(torch.zeros(3))])
    (group,) = optimizer.param_groups
    return optimizer._rule(group), optimizer, group


def test_every_compiled_rule_is_reached() -> None:
    """Some class and option select each compiled rule, and no class needs another one."""
    rowwise = {k["rule"] for k in _core.kernels() if k["row_slots"]}
    assert {compiled_rule(case)[0] for case in CASES} == set(COMPILED) - rowwise
    classes = (asyncopt.Adagrad, asyncopt.Adam, asyncopt.AdamW)
    made = [cls([Parameter(torch.zeros(3))], rowwise=True) for cls in classes]
    assert {opt._rule(opt.param_groups[0]) for opt in made} == rowwise


def test_row_wise_rules_read_what_the_others_read() -> None:
    for rule in COMPILED:
        if rule.endswith("_rowwise"):
            plain = find_kernel(rule.removesuffix("_rowwise"), torch.float32, torch.float32)
            kernel = find_kernel(rule, torch.float32, torch.float32)
            assert (kernel.hyper, kernel.slots) == (plain.hyper, plain.slots)
            assert (kernel.row_slots, plain.row_slots) == (1, 0)


def test_every_rule_is_compiled_for_every_dtype() -> None:
    assert set(KERNELS) == {(rule, *dtypes) for rule, dtypes in product(COMPILED, DTYPES)}
    assert {str(d) for d in param_dtypes()} == {f"torch.{p}" for p, _ in DTYPES}


@every_case
def test_hyperparameters(case: Case) -> None:
    """As many numbers as the kernel reads, each the group's of that name."""
    rule, optimizer, group = compiled_rule(case)
    values = optimizer._hyper(group)
    for kernel in (k for (name, *_), k in KERNELS.items() if name == rule):
        assert len(values) == len(kernel["hyper"])
        for name, value in zip(kernel["hyper"], values, strict=True):
            if name in ("beta1", "beta2"):
                assert value == group["betas"][int(name[-1]) - 1]
            else:
                assert value == group[name], name
            float(value)


@every_case
def test_state_has_torchs_names(case: Case) -> None:
    """Slots and scalars together are the state that torch keeps, shapes included."""
    rule, _, _ = compiled_rule(case)
    param = Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    theirs = case.theirs([param])
    theirs.step()
    state = {k: v for k, v in theirs.state[param].items() if v is not None}
    kernel = KERNELS[rule, "float32", "float32"]
    assert set(kernel["slots"]) == {k for k, v in state.items() if v.ndim}
    assert set(kernel["scalars"]) >= {k for k, v in state.items() if not v.ndim}
    assert set(kernel["scalars"]) - set(state) <= {"step"}  # SGD counts, but does not tell
    assert kernel["scalars"][:1] in ((), ("step",))


def test_kernels_are_found_by_name() -> None:
    for index, raw in enumerate(_core.kernels()):
        args = (dtype_of(raw["param_dtype"]), dtype_of(raw["state_dtype"]))
        kernel = find_kernel(raw["rule"], *args)
        assert kernel.index == index
        assert (kernel.hyper, kernel.slots, kernel.scalars) == (
            raw["hyper"],
            raw["slots"],
            raw["scalars"],
        )
    with pytest.raises(ValueError, match=r"state_dtype: expected .*float32.* got torch.float64"):
        find_kernel("adam", torch.float32, torch.float64)


def test_names_are_unique() -> None:
    for names in (asyncopt.rules(), SYNCS, _core.isas(), COMPILED):
        assert len(set(names)) == len(names) > 0


def test_rules_are_classes_of_the_package() -> None:
    """Each with its namesake in torch.optim, from which it derives."""
    for rule in asyncopt.rules():
        cls = getattr(asyncopt, rule)
        assert issubclass(cls, getattr(torch.optim, rule))
        assert issubclass(cls, asyncopt.optim.Optimizer)
        assert rule in asyncopt.__all__
    offered = {
        name
        for name, each in vars(asyncopt).items()
        if inspect.isclass(each) and issubclass(each, asyncopt.optim.Optimizer)
    }
    assert offered == set(asyncopt.rules())


def test_syncs_are_those_compiled() -> None:
    assert (
        SYNCS == asyncopt.syncs() == tuple(contracts()) == tuple(s["name"] for s in _core.syncs())
    )


def test_contracts() -> None:
    """The fields of a contract are consistent, and agree with the header's text."""
    for contract in _core.syncs():
        header = ROOT / "src" / "asyncopt" / "sync" / f"{contract['name']}.h"
        words = header.read_text().split("#pragma once")[0]
        for key, phrase in (
            ("may_lose", "may lose updates"),
            ("may_tear", "may tear"),
            ("may_block", "may block"),
            ("in_parts", "in parts"),
        ):
            (line,) = (x for x in words.splitlines() if x.startswith(f"//   {phrase}"))
            says_no = line.removeprefix(f"//   {phrase}").strip().startswith("no")
            assert says_no == (not contract[key]), line  # type: ignore[literal-required]
        assert "killed worker" in words
        # Whole versions are promised exactly where workers compute on replicas.
        assert contract["replica"] == (not contract["may_tear"])
        assert not (contract["replica"] and contract["in_parts"])


def test_unknown_sync() -> None:
    """The message lists the known ones."""
    with pytest.raises(ValueError, match=f"sync: expected one of {', '.join(SYNCS)}; got 'luck'"):
        asyncopt.SGD([torch.zeros(1)], sync="luck")
    config = _core.SegmentConfig(
        sync="luck", workers=1, data_bytes=64, param_bytes=64, lock_timeout=1, layout_hash=0
    )
    with pytest.raises(asyncopt.SegmentError, match=f"expected one of {', '.join(SYNCS)}"):
        _ = config.bytes_needed


@pytest.mark.parametrize("name", [*SYNCS, *asyncopt.rules()])
def test_documented(name: str) -> None:
    """README names every sync and every rule."""
    assert re.search(rf"\b{name}\b", (ROOT / "README.md").read_text())
