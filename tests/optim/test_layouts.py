"""Memory formats: parameters in any dense order, gradients in any order at all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from .twins import COMBINED, Twins, assert_close, draw, ours, theirs

#: Dense tensors whose memory order is not the one of their indices.
DENSE: dict[str, Callable[[torch.dtype], Tensor]] = {
    "channels_last": lambda d: draw(((2, 3, 4, 5),), d)[0].to(memory_format=torch.channels_last),
    "channels_last_3d": lambda d: draw(((2, 3, 4, 5, 2),), d)[0].to(
        memory_format=torch.channels_last_3d
    ),
    "transposed": lambda d: draw(((9, 17),), d)[0].t(),
    "permuted": lambda d: draw(((3, 5, 7),), d)[0].permute(2, 0, 1),
    "transposed with a size of one": lambda d: draw(((1, 17, 3),), d)[0].permute(2, 0, 1),
    "slice at an odd offset": lambda d: draw(((40,),), d)[0][3:38],
}

#: Gradients of shape (6, 4) in every form in which autograd or a user may leave one.
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda g: g.t().contiguous().t(),
    "expanded rows": lambda g: g[:1].expand(6, 4),
    "expanded scalar": lambda g: g[0, 0].expand(6, 4),
    "every second column": lambda g: g.repeat_interleave(2, dim=1)[:, ::2],
    "rows of a wider matrix": lambda g: torch.cat([g, g], 1)[:, :4],
    "flipped": lambda g: g.flip(0, 1),
    "at an odd offset": lambda g: torch.cat([g.new_zeros(1), g.flatten()])[1:].view(6, 4),
    "negated lazily": lambda g: torch.complex(g, g).conj().imag,
    "zero without memory": lambda g: torch._efficientzerotensor(g.shape, dtype=g.dtype),
    "requires grad": lambda g: g.clone().requires_grad_(),
}


@pytest.mark.parametrize("layout", DENSE)
def test_dense_parameters(rule: str, layout: str, dtype: torch.dtype) -> None:
    """Any dense order is stepped in place; state has the parameter's strides, as in torch."""
    value = DENSE[layout](dtype)
    twins = Twins(rule)
    for optimizer, _ in twins.sides:
        # An own copy with the same strides, made here as `clone` might normalize them.
        memory: Any = value.untyped_storage()
        memory = memory.clone()
        p = Parameter(
            torch.empty(0, dtype=dtype).set_(
                memory, value.storage_offset(), value.shape, value.stride()
            )
        )
        optimizer.add_param_group({"params": [p], "lr": 0.1})
        (twins.expected_params if optimizer is twins.expected else twins.params).append(p)
    pointer = twins.params[-1].data_ptr()
    twins.step(10)
    twins.check()
    assert twins.params[-1].stride() == value.stride()
    assert twins.params[-1].data_ptr() == pointer
    expected, actual = (o.state[params[-1]] for o, params in twins.sides)
    for key, tensor in expected.items():
        assert actual[key].stride() == tensor.stride(), key


@pytest.mark.parametrize("form", GRADIENTS)
@pytest.mark.parametrize(("rule", "options"), COMBINED, ids=str)
def test_gradients_of_any_strides(rule: str, options: dict[str, Any], form: str) -> None:
    """A gradient's values are used whatever its strides, and it is not written."""
    twins = Twins(rule, draw(((6, 4), (4,))), options)
    for _ in range(5):
        twins.gradients()
        for optimizer, params in twins.sides:
            gradient = GRADIENTS[form](params[0].grad)
            params[0].grad = gradient
            kept = gradient.detach().clone()
            optimizer.step()
            assert torch.equal(gradient, kept)
            assert params[0].grad is gradient
    twins.check()


def test_gradients_change_their_strides(rule: str) -> None:
    """Each step reads the current gradient's strides, not those of an earlier one."""
    twins = Twins(rule, draw(((6, 4),)))
    for form in (*GRADIENTS.values(), *reversed(GRADIENTS.values())):
        twins.gradients()
        for optimizer, params in twins.sides:
            params[0].grad = form(params[0].grad)
            optimizer.step()
            optimizer.zero_grad()
            params[0].grad = torch.ones(6, 4)
            optimizer.step()
    twins.check()


def test_contiguous_gradient_of_a_transposed_parameter(rule: str) -> None:
    """Parameter and gradient in different orders are matched by index, not by memory."""
    values = [DENSE["transposed"](torch.float32), DENSE["channels_last"](torch.float32)]
    twins = Twins(rule, values)
    assert not twins.params[0].is_contiguous()
    for _ in range(5):
        twins.gradients()
        for optimizer, params in twins.sides:
            for p in params:
                p.grad = p.grad.contiguous()
            optimizer.step()
    twins.check()


def test_channels_last_convolution(rule: str) -> None:
    """A channels_last network trains as with torch's optimizer."""
    (images,) = draw(((4, 3, 8, 8),), torch.float64)
    models = []
    for cls in (theirs(rule), ours(rule)):
        torch.manual_seed(1)
        model: Any = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3)).double()
        model = model.to(memory_format=torch.channels_last)
        optimizer = cls(model.parameters(), lr=0.01)
        for _ in range(10):
            optimizer.zero_grad()
            model(images.to(memory_format=torch.channels_last)).square().mean().backward()
            optimizer.step()
        models.append(model)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert a.stride() == b.stride()
        assert_close(b, a, rtol=1e-10)


def test_neighbours_in_one_storage(rule: str) -> None:
    """Disjoint parameters may be views of one buffer; no one's neighbours are touched."""
    (values,) = draw(((40,),))
    twins = Twins(rule)
    buffers = []
    for optimizer, params in twins.sides:
        buffer = values.clone()
        views = [Parameter(buffer[a:b]) for a, b in ((1, 9), (9, 18), (20, 39))]
        optimizer.add_param_group({"params": views})
        params.extend(views)
        buffers.append(buffer)
    twins.step(10)
    twins.check()
    for i in (0, 18, 19, 39):
        assert buffers[1][i] == values[i]
