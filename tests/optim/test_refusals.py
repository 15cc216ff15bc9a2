"""Bad input: a clear error that names the argument, before anything is written."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from .twins import RTOL, SYNCS, Twins, bytes_of, draw, ours, theirs

REFUSED = (RuntimeError, TypeError, ValueError)

UNSUPPORTED = (
    torch.float16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.uint8,
    torch.bool,
)


def good() -> Parameter:
    """A parameter that nothing is wrong with, with a gradient."""
    p = Parameter(torch.ones(5))
    p.grad = torch.ones(5)
    return p


@pytest.mark.parametrize("bad", UNSUPPORTED, ids=lambda d: str(d).removeprefix("torch."))
def test_dtype(rule: str, bad: torch.dtype) -> None:
    """Refused by position and dtype, with the supported ones listed."""
    with pytest.raises(REFUSED, match=rf"params\[1\].*{str(bad).removeprefix('torch.')}") as info:
        ours(rule)([good(), Parameter(torch.zeros(3).to(bad), requires_grad=False)])
    for known in RTOL:
        assert str(known).removeprefix("torch.") in str(info.value)


#: Tensors that are not dense: writing them as one block would touch foreign memory.
NOT_DENSE: dict[str, Callable[[], Tensor]] = {
    "every second": lambda: torch.ones(10)[::2],
    "columns": lambda: torch.ones(5, 6)[:, :3],
    "expanded": lambda: torch.ones(1).expand(5),
    "overlapping windows": lambda: torch.ones(8).as_strided((3, 4), (2, 1)),
    "diagonal": lambda: torch.ones(4, 4).diagonal(),
}


@pytest.mark.parametrize("kind", NOT_DENSE)
def test_not_dense(rule: str, kind: str) -> None:
    """A parameter with holes or overlaps is refused by position, and nothing is written."""
    base = NOT_DENSE[kind]()
    with pytest.raises(ValueError, match=r"params\[1\]"):
        ours(rule)([good(), Parameter(base)])
    assert bool((base == 1).all())


def test_not_dense_after_construction(rule: str) -> None:
    """`p.data = ` a strided view between steps is refused at the step, before any write."""
    twins = Twins(rule, draw(((5,), (4,))))
    twins.step(2)
    first = twins.params[0].detach().clone()
    memory = torch.ones(8)
    twins.params[1].data = memory[::2]
    twins.gradients()
    with pytest.raises(ValueError, match=r"params\[1\]"):
        twins.actual.step()
    assert bool((memory == 1).all())
    assert torch.equal(twins.params[0], first)


def test_wrong_device(rule: str) -> None:
    """Parameters without memory on the CPU are refused."""
    with pytest.raises(REFUSED, match=r"params\[1\].*cpu.*meta"):
        ours(rule)([good(), Parameter(torch.ones(3, device="meta"))])


def test_sparse_parameter(rule: str) -> None:
    """A sparse parameter is refused."""
    with pytest.raises(REFUSED, match=r"(?is)params\[1\].*(sparse|dense|strided)"):
        ours(rule)([good(), Parameter(torch.ones(3).to_sparse())])


def test_position_in_a_later_group(rule: str) -> None:
    """With several groups the message still finds the parameter."""
    with pytest.raises(REFUSED, match=r"(param_groups\[1\].*params.*\[2\]|params\[3\])"):
        ours(rule)(
            [
                {"params": [good()]},
                {"params": [good(), good(), Parameter(torch.ones(3, dtype=torch.float16))]},
            ]
        )


def test_shape_of_the_gradient(rule: str) -> None:
    """A gradient that no longer fits its parameter is refused, never read beyond its end."""
    for new in (400, 2):
        a, b = good(), good()
        optimizer = ours(rule)([a, b])
        optimizer.step()
        a.grad = torch.ones(5)
        before = a.detach().clone()
        b.data = torch.ones(new)
        with pytest.raises(REFUSED, match=r"(?s)params\[1\].*(shape|size)"):
            optimizer.step()
        assert torch.equal(a, before)
        assert bool((b == 1).all())


def test_dtype_of_the_gradient(rule: str) -> None:
    """torch can let a gradient have another dtype (`grad_dtype`); it is refused, not misread."""
    a, b = good(), good()
    optimizer = ours(rule)([a, b])
    optimizer.step()
    b.grad = None
    b.grad_dtype = None
    b.grad = torch.ones(5, dtype=torch.float64)
    before = bytes_of(optimizer)
    with pytest.raises(REFUSED, match=r"(?s)params\[1\]\.grad.*float32.*float64"):
        optimizer.step()
    assert bytes_of(optimizer) == before


@pytest.mark.parametrize("bad", [(400,), (2,), (5, 1), ()], ids=str)
def test_shape_of_the_state(rule: str, bad: tuple[int, ...]) -> None:
    """A state tensor of another shape put in by the user is refused by its name."""
    twins = Twins(rule, draw(((5,),)))
    twins.step()
    state = twins.actual.state[twins.params[0]]
    names = [k for k, v in state.items() if isinstance(v, Tensor) and v.shape == (5,)]
    if not names:
        assert rule == "SGD"  # plain SGD alone keeps nothing per element
        twins = Twins(rule, draw(((5,),)), {"momentum": 0.9})
        twins.step()
        state = twins.actual.state[twins.params[0]]
        names = ["momentum_buffer"]
    before = twins.params[0].detach().clone()
    for name in names:
        kept = state[name]
        state[name] = torch.ones(bad)
        with pytest.raises(REFUSED, match=name):
            twins.actual.step()
        state[name] = kept
    assert torch.equal(twins.params[0], before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_dtype_of_the_state(rule: str, dtype: torch.dtype) -> None:
    """A state tensor of another dtype put in by the user is taken by value, never misread."""
    twins = Twins(rule, draw(((5,),)), {"momentum": 0.9} if rule == "SGD" else {})
    twins.step()
    for optimizer, params in twins.sides:
        state = optimizer.state[params[0]]
        for name in [k for k, v in state.items() if v.shape == (5,)]:
            converted = state[name].to(dtype)
            state[name] = converted if optimizer is twins.actual else converted.float()
    twins.step(2)
    twins.check()


OVERLAPS: dict[str, tuple[slice, slice]] = {
    "partly": (slice(0, 6), slice(5, 10)),
    "inside": (slice(0, 10), slice(3, 4)),
    "same": (slice(2, 7), slice(2, 7)),
}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", OVERLAPS)
def test_overlapping_parameters(rule: str, kind: str, grouped: bool) -> None:
    """Two parameters over the same memory are refused, in one group or in two."""
    memory = torch.ones(10)
    params: list[Any] = [Parameter(memory[s]) for s in OVERLAPS[kind]]
    with pytest.raises(ValueError, match=r"(?s)params\[1\].*params\[0\]"):
        ours(rule)([{"params": [p]} for p in params] if grouped else params)
    assert bool((memory == 1).all())


def test_refused_group_is_not_added(rule: str) -> None:
    """After `add_param_group` raised, the optimizer is what it was and goes on."""
    twins = Twins(rule)
    twins.step(2)
    bad = [
        Parameter(twins.params[0].detach()[2:5]),
        Parameter(torch.ones(3, dtype=torch.float16)),
        Parameter(torch.ones(8)[::2]),
    ]
    for p in bad:
        with pytest.raises(REFUSED, match="params"):
            twins.actual.add_param_group({"params": [good(), p]})
        assert len(twins.actual.param_groups) == 1
    twins.step(3)
    twins.check()


def test_duplicate_parameters_are_refused(rule: str) -> None:
    """A parameter listed twice would be stepped twice; torch only warns that it will refuse it."""
    p = good()
    with (
        pytest.warns(UserWarning, match="duplicate parameters"),
        pytest.raises(ValueError, match=r"params\[1\]: shares memory with params\[0\]"),
    ):
        ours(rule)([p, p], lr=0.1)


def test_unknown_sync_lists_the_known_ones(rule: str) -> None:
    """The message quotes the unknown name and lists the known ones."""
    with pytest.raises(ValueError, match=r"sync.*'hogwold'") as info:
        ours(rule)([good()], sync="hogwold")
    assert all(sync in str(info.value) for sync in SYNCS)
    for bad in (None, ["mutex"]):
        with pytest.raises((TypeError, ValueError), match=r"^sync: expected"):
            ours(rule)([good()], sync=bad)


def test_arguments_of_another_kind(rule: str) -> None:
    """Arguments of a wrong type that torch's constructors accept or report unclearly."""
    with pytest.raises(TypeError, match=r"params: .*Sequential; pass its \.parameters\(\)"):
        ours(rule)(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    for name, default in theirs(rule)([good()]).defaults.items():
        if isinstance(default, bool) or name in ("foreach", "fused", "initial_accumulator_value"):
            continue
        if isinstance(default, tuple):
            bad: tuple[Any, ...] = (0.9, "ab", ("0.9", 0.99), (0.9,), (0.9, 0.99, 0.999))
        else:
            bad = ("0.1", None, [0.1])
        for value in bad:
            with pytest.raises(TypeError, match=rf"^{name}: expected a (pair of )?number"):
                ours(rule)([good()], **{name: value})


def test_rows_that_are_no_tensors(rule: str) -> None:
    """Lists are refused by name, and nothing is written."""
    table = Parameter(torch.ones(4, 3))
    optimizer = ours(rule)([table])
    one, values = torch.tensor([1]), torch.ones(1, 3)
    for args, name in (
        (("weight", one, values), "param"),
        ((table, [1], values), "rows"),
        ((table, one, [[1.0, 1.0, 1.0]]), "values"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            optimizer.step_rows(*args)
    with pytest.raises(ValueError, match=r"^rows: expected a tensor"):
        optimizer.catch_up(table, [1])
    assert bool((table == 1).all())


def test_audit_needs_hogwild(rule: str, sync: str) -> None:
    """Other syncs lose nothing: counting there is a mistake that is pointed out."""
    if sync == "hogwild":
        assert ours(rule)([good()], sync=sync, audit=True).audit
    else:
        with pytest.raises(ValueError, match=r"(?s)audit.*hogwild"):
            ours(rule)([good()], sync=sync, audit=True)


@pytest.mark.parametrize("bad", [torch.float16, torch.int32, "bfloat16"], ids=str)
def test_state_dtype(rule: str, bad: Any) -> None:
    """State can be kept in the parameter's dtype or in bfloat16, nothing else."""
    with pytest.raises((TypeError, ValueError), match=r"(?s)state_dtype.*bfloat16"):
        ours(rule)([good()], state_dtype=bad)


def test_nonfinite_option(rule: str) -> None:
    """An unknown policy is refused with the known ones."""
    with pytest.raises(ValueError, match=r"(?s)nonfinite.*propagate.*skip.*'drop'"):
        ours(rule)([good()], nonfinite="drop")


@pytest.mark.parametrize("name", ["differentiable", "capturable"])
def test_what_only_torch_can_do(rule: str, name: str) -> None:
    """Stepping through autograd or a CUDA graph is refused by name, not ignored."""
    if name in theirs(rule)([good()]).defaults:
        with pytest.raises((NotImplementedError, RuntimeError, ValueError), match=name):
            ours(rule)([good()], **{name: True})
    else:
        with pytest.raises(TypeError, match=name):
            ours(rule)([good()], **{name: True})


def test_flags_that_exclude_each_other(rule: str) -> None:
    """`fused` and `foreach` together are refused with torch's type and text."""
    flags = {"fused": True, "foreach": True}
    with pytest.raises((RuntimeError, TypeError)) as expected:
        theirs(rule)([good()], **flags)
    with pytest.raises(expected.type, match="fused"):
        ours(rule)([good()], **flags)


@pytest.mark.parametrize("value", [-1.0, float("nan")], ids=str)
def test_bad_numbers(rule: str, value: float) -> None:
    """Numbers that torch refuses are refused: negative ones with torch's text, NaN by name."""
    checked = 0
    for name, default in theirs(rule)([good()]).defaults.items():
        if isinstance(default, bool) or not isinstance(default, int | float | tuple):
            continue
        given = (value, 0.9) if isinstance(default, tuple) else value
        if math.isnan(value):
            with pytest.raises(ValueError, match=f"^{name}: expected a number.*, got .*nan"):
                ours(rule)([good()], **{name: given})
            continue
        try:
            theirs(rule)([good()], **{name: given})
        except ValueError as error:
            checked += 1
            with pytest.raises(ValueError, match=str(error).split(":", maxsplit=1)[0]):
                ours(rule)([good()], **{name: given})
    if value < 0:
        assert checked >= 2


@pytest.mark.parametrize("value", ["0.1", None, [0.1], torch.ones(2)], ids=repr)
def test_a_number_of_a_group_that_is_none(rule: str, value: Any) -> None:
    """A bad value set in a group later is refused by group and name, before any write."""
    twins = Twins(rule, draw(((5,), (4,))))
    twins.step()
    before = bytes_of(twins.actual)
    twins.gradients()
    twins.actual.param_groups[0]["lr"] = value
    with pytest.raises(TypeError, match=r"param_groups\[0\]: lr: expected a number, got "):
        twins.actual.step()
    assert bytes_of(twins.actual) == before


@pytest.mark.parametrize("count", [0, 1, 3, 50_000])
@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_number_of_betas(rule: str, count: int) -> None:
    """Neither shifted into the numbers behind them nor written beyond the end."""
    optimizer = ours(rule)([good()], lr=0.1)
    optimizer.step()
    optimizer.param_groups[0]["betas"] = (0.9,) * count
    before = bytes_of(optimizer)
    with pytest.raises(ValueError, match=rf"param_groups\[0\].*beta1, beta2.*; got {count + 5}$"):
        optimizer.step()
    assert bytes_of(optimizer) == before
