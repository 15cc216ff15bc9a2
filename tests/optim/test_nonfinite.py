"""NaN and infinite gradients: passed on as torch does, or the whole push skipped."""

import math
import warnings

import pytest
import torch

from .twins import SIZES, Twins, bytes_of, draw

BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("value", BAD, ids=str)
@pytest.mark.parametrize("explicit", [False, True])
def test_propagates_like_torch(rule: str, dtype: torch.dtype, value: float, explicit: bool) -> None:
    """Alone, the default does with a bad element what torch does, and only to that element."""
    extra = {"nonfinite": "propagate"} if explicit else {}
    twins = Twins(rule, draw(((17,), (7, 7)), dtype), extra=extra)
    twins.step(2)
    twins.gradients()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizer, params in twins.sides:
            params[0].grad[16] = value
            optimizer.step()
        twins.check()
        twins.step(2)
    twins.check()
    assert twins.actual.ledger().skipped_nonfinite == 0
    assert twins.params[0][:16].isfinite().all()


@pytest.mark.parametrize("value", BAD, ids=str)
def test_skip_writes_nothing(rule: str, dtype: torch.dtype, value: float) -> None:
    """One bad element anywhere: no byte of any parameter or state changes, `step` included."""
    twins = Twins(rule, draw(SIZES, dtype), extra={"nonfinite": "skip"})
    twins.step(2)
    skipped = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for index, p in enumerate(twins.params):
            for position in {0, p.numel() // 2, p.numel() - 1} if p.numel() else ():
                twins.gradients()
                before = bytes_of(twins.actual)
                twins.params[index].grad.view(-1)[position] = value
                assert twins.actual.step(lambda: 1.25) == 1.25
                skipped += 1
                assert bytes_of(twins.actual) == before
                assert twins.actual.ledger().skipped_nonfinite == skipped
    assert skipped > len(SIZES)
    twins.step(3)  # torch's never saw the bad ones: the good ones still count the same
    twins.check()
    assert twins.actual.ledger().skipped_nonfinite == skipped


def test_skip_covers_all_groups(rule: str) -> None:
    """A bad gradient in the last group keeps the first from being written."""
    twins = Twins(
        rule,
        draw(((17,), (5,))),
        extra={"nonfinite": "skip"},
        build=lambda params: [{"params": [p]} for p in params],
    )
    twins.step(2)
    twins.gradients()
    before = bytes_of(twins.actual)
    twins.params[1].grad[4] = math.nan
    with pytest.warns(RuntimeWarning, match="finite"):
        twins.actual.step()
    assert bytes_of(twins.actual) == before


def test_skip_before_the_first_step(rule: str) -> None:
    """A bad first gradient leaves an optimizer that starts as if it had not been there."""
    options = {"momentum": 0.9, "dampening": 0.5} if rule == "SGD" else {}
    twins = Twins(rule, options=options, extra={"nonfinite": "skip"})
    twins.gradients()
    twins.params[1].grad.fill_(math.inf)
    with pytest.warns(RuntimeWarning, match="finite"):
        twins.actual.step()
    twins.step(5)
    twins.check()


def test_skip_warns_once(rule: str) -> None:
    """One RuntimeWarning per optimizer, naming what was wrong; silence after it."""
    twins = Twins(rule, extra={"nonfinite": "skip"})
    twins.gradients()
    twins.params[1].grad[0] = math.nan
    with pytest.warns(RuntimeWarning, match="finite") as caught:
        twins.actual.step()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twins.actual.step()
    assert twins.actual.ledger().skipped_nonfinite == 2


def test_large_finite_gradients_are_not_skipped(rule: str, dtype: torch.dtype) -> None:
    """Elements whose sum or square overflows are finite all the same."""
    twins = Twins(rule, draw(((17,), (1000,)), dtype), extra={"nonfinite": "skip"})
    for optimizer, params in twins.sides:
        for p in params:
            p.grad = torch.full_like(p, torch.finfo(dtype).max)
        optimizer.step()
    assert twins.actual.ledger().skipped_nonfinite == 0
    twins.check()


def test_none_gradients_are_not_looked_at(rule: str) -> None:
    """Skipping is about the gradients of this push alone."""
    twins = Twins(rule, extra={"nonfinite": "skip"})
    twins.gradients()
    for optimizer, params in twins.sides:
        params[0].grad = None
        optimizer.step()
    assert twins.actual.ledger().skipped_nonfinite == 0
    twins.check()


@pytest.mark.parametrize("form", ["transposed", "expanded", "lazily negated"])
def test_skip_sees_through_strides(rule: str, form: str) -> None:
    """The check reads the gradient's elements, whatever its memory order."""
    twins = Twins(rule, draw(((6, 4),)), extra={"nonfinite": "skip"})
    twins.step()
    g = torch.ones(6, 4)
    if form == "transposed":
        g = g.t().contiguous().t()
        g[5, 3] = math.nan
    elif form == "expanded":
        g = torch.full((1,), math.inf).expand(6, 4)
    else:
        g[5, 3] = math.inf
        g = torch.complex(torch.zeros(6, 4), g).conj().imag
    twins.params[0].grad = g
    before = bytes_of(twins.actual)
    with pytest.warns(RuntimeWarning, match="finite"):
        twins.actual.step()
    assert bytes_of(twins.actual) == before
