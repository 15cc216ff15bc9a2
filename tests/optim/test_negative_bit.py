"""Tensors with torch's negative or conjugate bit, whose values differ from their memory.

The bits come with lazy views: `.imag` of a conjugate is the negative of the value in memory.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncopt

from .twins import Twins, assert_close, draw


def negated(value: Tensor) -> Tensor:
    """A tensor equal to `value` over memory with the opposite sign."""
    view = torch.complex(torch.zeros_like(value), -value).conj().imag
    assert view.is_neg()
    assert torch.equal(view, value)
    return view


SHAPES = ((), (1,), (1, 1), (2,), (5,), (5, 1), (1, 5), (3, 4))


@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flat"])
def test_gradients(rule: str, dtype: torch.dtype, flat: bool) -> None:
    """Of every shape, also where strides do not tell: one element."""
    twins = Twins(rule, draw(SHAPES, dtype), extra={"flat_grads": flat})
    for seed in range(3):
        values = draw(SHAPES, dtype, seed)
        makes: tuple[Any, Any] = (torch.clone, negated)
        for (_, params), make in zip(twins.sides, makes, strict=True):
            for param, value in zip(params, values, strict=True):
                param.grad = make(value)
        twins.expected.step()
        twins.actual.step()
        twins.actual.zero_grad()
    twins.check()


def test_autograd_leaves_the_bit_on_scalars(rule: str) -> None:
    """The gradient of a scalar phase has it, as torch computes it."""
    results = []
    for cls in (getattr(torch.optim, rule), getattr(asyncopt, rule)):
        phase = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        optimizer = cls([phase], lr=0.1)
        seen = []
        for _ in range(5):
            optimizer.zero_grad()
            wave = torch.complex(torch.tensor(1.0, dtype=torch.float64), phase)
            (wave.conj() * (2 + 1j)).imag.backward()
            seen.append(phase.grad is not None and phase.grad.is_neg())
            optimizer.step()
        results.append(phase)
    assert any(seen)  # else this test shows nothing
    assert_close(results[1], results[0])


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("how", ["touched", "dense"])
def test_rows(rows: int, width: int, how: str) -> None:
    """Rows that are pushed by themselves; of sparse gradients torch itself resolves the bit."""
    start = draw(((6, width),))[0]
    index = torch.arange(rows)[None] + 2
    (value,) = draw(((rows, width),))
    results = []
    for make in (Tensor.clone, negated):
        table = nn.Parameter(start.clone())
        optimizer = asyncopt.SGD([table], lr=0.1, sparse_updates=how)
        table.grad = torch.sparse_coo_tensor(index, make(value), table.shape)
        optimizer.step()
        optimizer.step_rows(table, index[0], make(value))
        results.append(table)
    assert_close(results[1], results[0])
    assert not torch.equal(results[0], start)


def test_state_that_is_loaded(rule: str) -> None:
    """A loaded state tensor of one element with the bit keeps its value."""
    twins = Twins(rule, draw(((1,), ())))
    twins.step(2)
    saved = twins.actual.state_dict()
    for entries in saved["state"].values():
        for name, entry in entries.items():
            if isinstance(entry, Tensor) and entry.dtype == torch.float32:
                entries[name] = negated(entry)
    twins.actual.load_state_dict(saved)
    twins.step(2)
    twins.check()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_parameters_are_refused(shape: tuple[int, ...]) -> None:
    """At construction, when added, and when their memory is exchanged."""
    (value,) = draw((shape,))
    bad = nn.Parameter(negated(value))
    with pytest.raises(ValueError, match=r"params\[0\]: .*negative bit.*resolve_neg"):
        asyncopt.SGD([bad])
    good = nn.Parameter(value.clone())
    optimizer = asyncopt.SGD([good], lr=0.1)
    with pytest.raises(ValueError, match=r"params\[1\]: .*negative bit"):
        optimizer.add_param_group({"params": [bad]})
    good.grad = torch.ones_like(good)
    optimizer.step()
    good.data = negated(value)
    before = good.detach().clone()
    good.grad = torch.ones_like(value)
    with pytest.raises(ValueError, match=r"params\[0\]: .*negative bit"):
        optimizer.step()
    assert torch.equal(good.detach(), before)


def test_memory_that_stays_where_it_is() -> None:
    """The bit is seen where only it has changed, and the address has not."""
    wave = torch.complex(torch.tensor(1.0), torch.tensor(2.0))
    param = nn.Parameter(wave.imag)
    optimizer = asyncopt.SGD([param], lr=0.1)
    param.grad = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(wave.imag, torch.tensor(1.9))
    param.data = wave.conj().imag
    param.grad = torch.tensor(1.0)
    with pytest.raises(ValueError, match="negative bit"):
        optimizer.step()
    assert torch.equal(wave.imag, torch.tensor(1.9))


def test_conjugates_are_refused() -> None:
    """Complex parameters, and values of rows, by their dtype, with or without the bit."""
    wave = torch.complex(torch.ones(3), torch.ones(3))
    for each in (wave, wave.conj()):
        with pytest.raises(ValueError, match="expected float32"):
            asyncopt.SGD([nn.Parameter(each)])
        table = nn.Parameter(torch.ones(3))
        with pytest.raises(ValueError, match=r"values: expected torch\.float32"):
            asyncopt.SGD([table]).step_rows(table, torch.tensor([0, 1, 2]), each)
