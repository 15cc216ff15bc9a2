"""Checks of what users pass in: parameters and gradients. Nothing shared is touched before them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from asyncopt.optim.kernels import param_dtypes

__all__ = [
    "check_gradient",
    "check_overlap",
    "check_param",
    "check_rows",
    "is_dense",
    "same_layout",
]


def is_dense(tensor: torch.Tensor) -> bool:
    """True if the elements fill one block of memory without gaps or overlap, in any order."""
    expected = 1
    dims = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted((s, n) for s, n in dims if n != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def same_layout(a: torch.Tensor, b: torch.Tensor) -> bool:
    """True if both have the same shape and the same order of elements in memory."""
    if a.shape != b.shape:
        return False
    dims = zip(a.shape, a.stride(), b.stride(), strict=True)
    return a.numel() == 0 or all(n == 1 or s == t for n, s, t in dims)


def check_param(param: torch.Tensor, name: str) -> None:
    """Raises ValueError if the engine cannot update this parameter in place."""
    if param.layout != torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got {param.layout}; call .to_dense()")
    if param.device.type != "cpu":
        raise ValueError(f"{name}: expected a tensor on cpu, got {param.device}; call .cpu()")
    if param.dtype not in param_dtypes():
        known = ", ".join(str(d).removeprefix("torch.") for d in param_dtypes())
        got = str(param.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: expected {known}; got {got}; convert it, such as by .float()")
    if not is_dense(param):
        raise ValueError(
            f"{name}: expected elements without gaps or overlap in memory, got shape "
            f"{tuple(param.shape)} with strides {param.stride()}; "
            "make the parameter from a .contiguous() tensor"
        )


def check_overlap(params: Iterable[torch.Tensor]) -> None:
    """Raises ValueError if two parameters share memory: their updates would apply twice."""
    spans = sorted(
        (p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), i)
        for i, p in enumerate(params)
        if p.numel()
    )
    for (_, end, first), (start, _, second) in itertools.pairwise(spans):
        if start < end:
            low, high = sorted((first, second))
            raise ValueError(
                f"params[{high}]: shares memory with params[{low}]; "
                "pass tied parameters once, as one tensor"
            )


def check_gradient(param: torch.Tensor, grad: torch.Tensor, name: str) -> torch.Tensor:
    """The gradient in the parameter's own memory order.

    Args:
        param: the parameter.
        grad: its gradient.
        name: how messages call the parameter.

    Returns:
        `grad`, or a copy of it if its strides differ from the parameter's.

    Raises:
        ValueError: `grad` is sparse, or of another dtype, device or shape.
    """
    expected = f"{name}.grad: expected {_describe(param)}"
    if grad.layout != torch.strided:
        raise ValueError(f"{expected}; got a {grad.layout} one; make the layer with sparse=False")
    if grad.device != param.device:
        raise ValueError(f"{expected}; got one on {grad.device}; call .cpu()")
    if grad.dtype != param.dtype:
        raise ValueError(f"{expected}; got {grad.dtype}; call .to({param.dtype})")
    if grad.shape != param.shape:
        raise ValueError(f"{expected}; got shape {tuple(grad.shape)}")
    if same_layout(param, grad) and not grad._is_zerotensor():
        return grad
    return torch.empty_like(param, memory_format=torch.preserve_format).copy_(grad)


def check_rows(
    param: torch.Tensor, rows: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row indices and row gradients as the engine reads them: contiguous.

    Raises:
        ValueError: a shape, dtype or device does not fit `param`, or an index is out of range.
    """
    if param.ndim == 0 or not param.is_contiguous():
        raise ValueError(f"param: expected a contiguous tensor with rows, got {_describe(param)}")
    if (
        rows.layout != torch.strided
        or rows.dtype != torch.int64
        or rows.ndim != 1
        or rows.device != param.device
    ):
        raise ValueError(f"rows: expected torch.int64 on cpu, shape (k,); got {_describe(rows)}")
    expected = (len(rows), *param.shape[1:])
    if (
        values.layout != torch.strided
        or values.dtype != param.dtype
        or values.device != param.device
        or values.shape != expected
    ):
        raise ValueError(
            f"values: expected {param.dtype} on {param.device}, shape {expected}; "
            f"got {_describe(values)}"
        )
    if len(rows):
        low, high = (int(x) for x in torch.aminmax(rows))
        if low < 0 or high >= len(param):
            raise ValueError(f"rows: expected indices in [0, {len(param)}), got {low} to {high}")
    return rows.contiguous(), values.detach().contiguous()


def _describe(tensor: torch.Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f", {tensor.layout}"
    return f"{tensor.dtype} on {tensor.device}, shape {tuple(tensor.shape)}{layout}"
