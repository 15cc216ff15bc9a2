"""Checks of what users pass in: parameters and gradients. Nothing shared is touched before them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from asyncopt.gpu import unavailable
from asyncopt.optim.kernels import Kernel, hyper_names, param_dtypes
from asyncopt.optim.local import check_placement, has_storage, is_distributed, local_of

__all__ = [
    "check_device",
    "check_gradient",
    "check_hyper",
    "check_kernel",
    "check_overlap",
    "check_param",
    "check_range",
    "check_rows",
    "has_layout",
    "is_dense",
    "same_layout",
]


def check_hyper(params: Any, hyper: dict[str, Any]) -> None:
    """Raises TypeError for what no torch optimizer takes, and ValueError for NaN.

    Other ranges are left to torch's own checks.
    """
    if isinstance(params, torch.nn.Module):
        raise TypeError(
            f"params: expected tensors, got a module, {type(params).__name__}; pass its "
            ".parameters()"
        )
    for name, value in hyper.items():
        if name == "betas":
            pair = hasattr(value, "__len__") and len(value) == 2
            if not (pair and all(hasattr(beta, "__float__") for beta in value)):
                raise TypeError(f"betas: expected a pair of numbers, got {value!r}")
        elif name in hyper_names() and not hasattr(value, "__float__"):
            raise TypeError(f"{name}: expected a number, got {value!r}")
        for number in value if name == "betas" else (value,):
            if isinstance(number, float) and math.isnan(number):
                raise ValueError(f"{name}: expected a number, got {value!r}")


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
    return has_layout(a, b.shape, b.stride())


def has_layout(tensor: torch.Tensor, shape: Sequence[int], strides: Sequence[int]) -> bool:
    """True if the tensor has this shape, and these strides wherever they matter."""
    if tuple(tensor.shape) != tuple(shape):
        return False
    dims = zip(shape, tensor.stride(), strides, strict=True)
    return tensor.numel() == 0 or all(n == 1 or s == t for n, s, t in dims)


def check_param(param: torch.Tensor, name: str) -> None:
    """Raises ValueError if the engine cannot update this parameter, or its local part, in place."""
    param = local_of(param)
    if param.layout != torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got {param.layout}; call .to_dense()")
    if param.device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"{name}: expected a tensor on cpu or cuda, got {param.device}; call .cpu()"
        )
    if param.device.type == "cuda" and (reason := unavailable()) is not None:
        raise ValueError(
            f"{name}: expected a tensor on cpu, got {param.device}: {reason}, or call .cpu()"
        )
    if param.dtype not in param_dtypes():
        known = ", ".join(str(d).removeprefix("torch.") for d in param_dtypes())
        got = str(param.dtype).removeprefix("torch.")
        remedy = "convert the model by .float() or .bfloat16() before the optimizer is made"
        if param.dtype.is_complex:
            remedy = "store real and imaginary parts, as by torch.view_as_real"
        raise ValueError(f"{name}: expected {known}; got {got}; {remedy}")
    if not has_storage(param):
        raise ValueError(
            f"{name}: expected a tensor with storage, got {_without_storage(param)}; make the "
            "optimizer from the tensors that hold the data, or use torch.optim"
        )
    if param.is_neg():
        raise ValueError(
            f"{name}: expected a tensor without torch's negative bit, as memory would hold the "
            "negative of its values; call .resolve_neg()"
        )
    if not is_dense(param):
        raise ValueError(
            f"{name}: expected elements without gaps or overlap in memory, got shape "
            f"{tuple(param.shape)} with strides {param.stride()}; "
            "make the parameter from a .contiguous() tensor"
        )


def check_kernel(param: torch.Tensor, kernel: Kernel, name: str) -> None:
    """Raises ValueError if a kernel cannot update a parameter that `check_param` has let pass."""
    if kernel.row_slots and not local_of(param).is_contiguous():
        raise ValueError(
            f"{name}: expected a tensor whose rows lie in one piece, as rowwise=True needs it, got "
            f"strides {param.stride()}; make the parameter from a .contiguous() tensor"
        )


def check_device(params: Sequence[torch.Tensor]) -> None:
    """Raises ValueError if the parameters are not all on one device."""
    for i, param in enumerate(params):
        if param.device != params[0].device:
            raise ValueError(
                f"params[{i}]: expected a tensor on {params[0].device}, as params[0]; got one on "
                f"{param.device}; make an optimizer for each device"
            )


def check_overlap(params: Iterable[torch.Tensor]) -> None:
    """Raises ValueError if two parameters share memory: their updates would apply twice."""
    spans = sorted(
        (p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), i)
        for i, p in enumerate(map(local_of, params))
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
        grad: its gradient: strided, or sparse in the first dimension alone, as
            ``nn.Embedding(sparse=True)`` makes it. That of a DTensor is one, with its placements.
        name: how messages call the parameter.

    Returns:
        `grad`, its local part, or a copy that the engine can read: with the parameter's strides, or
        contiguous where it is sparse, and without torch's negative bit.

    Raises:
        ValueError: `grad` is of another dtype, device, shape, layout or placement, or has no
            storage.
    """
    if is_distributed(param) or is_distributed(grad):
        check_placement(f"{name}.grad", grad, param)
        param, grad = local_of(param), local_of(grad)
    expected = f"{name}.grad: expected {_describe(param)}"
    if grad.layout not in (torch.strided, torch.sparse_coo):
        raise ValueError(f"{expected}; got a {grad.layout} one; call .to_dense()")
    if grad.device != param.device:
        raise ValueError(f"{expected}; got one on {grad.device}; call .to({str(param.device)!r})")
    if grad.dtype != param.dtype:
        raise ValueError(f"{expected}; got {grad.dtype}; call .to({param.dtype})")
    if grad.shape != param.shape:
        raise ValueError(f"{expected}; got shape {tuple(grad.shape)}")
    if grad.layout == torch.sparse_coo:
        return _checked_rows(param, grad, name, expected)
    if not grad._is_zerotensor() and not has_storage(grad):
        raise ValueError(
            f"{expected}; got {_without_storage(grad)}; put a tensor that holds the data in .grad"
        )
    if same_layout(param, grad) and not grad._is_zerotensor() and not grad.is_neg():
        return grad
    return torch.empty_like(param, memory_format=torch.preserve_format).copy_(grad)


def _checked_rows(
    param: torch.Tensor, grad: torch.Tensor, name: str, expected: str
) -> torch.Tensor:
    if grad.sparse_dim() != 1:
        raise ValueError(
            f"{expected}, or sparse in its first dimension; got one that is sparse in "
            f"{grad.sparse_dim()} dimensions; call .to_dense()"
        )
    if not param.is_contiguous():
        raise ValueError(
            f"{expected}; got a sparse one for a parameter with strides {param.stride()}; make the "
            "parameter from a .contiguous() tensor"
        )
    rows, values = grad._indices(), grad._values()
    check_range(f"{name}.grad: expected row indices", rows, len(param))
    if rows.is_contiguous() and values.is_contiguous():
        return grad
    parts = rows.contiguous(), values.contiguous()
    return torch.sparse_coo_tensor(*parts, grad.shape, device=grad.device, check_invariants=False)


def check_rows(param: torch.Tensor, rows: Any, values: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Row indices and row gradients as the engine reads them: contiguous, without negative bit.

    Raises:
        ValueError: a shape, dtype or device does not fit `param`, or an index is out of range.
    """
    if is_distributed(param):
        raise ValueError(
            "param: expected a plain tensor, got a DTensor, whose rows lie in several processes; "
            "leave a gradient in .grad and call step"
        )
    if param.ndim == 0 or not param.is_contiguous():
        raise ValueError(f"param: expected a contiguous tensor with rows, got {_describe(param)}")
    if (
        not isinstance(rows, torch.Tensor)
        or rows.layout != torch.strided
        or rows.dtype != torch.int64
        or rows.ndim != 1
        or rows.device != param.device
    ):
        raise ValueError(f"rows: expected torch.int64 on cpu, shape (k,); got {_describe(rows)}")
    expected = (len(rows), *param.shape[1:])
    if (
        not isinstance(values, torch.Tensor)
        or values.layout != torch.strided
        or values.dtype != param.dtype
        or values.device != param.device
        or values.shape != expected
    ):
        raise ValueError(
            f"values: expected {param.dtype} on {param.device}, shape {expected}; "
            f"got {_describe(values)}"
        )
    check_range("rows: expected indices", rows, len(param))
    for name, part in (("rows", rows), ("values", values)):
        if not has_storage(part):
            raise ValueError(
                f"{name}: expected a tensor with storage, got {_without_storage(part)}"
            )
    return rows.resolve_neg().contiguous(), values.detach().resolve_neg().contiguous()


def check_range(expected: str, rows: torch.Tensor, count: int) -> None:
    """Raises ValueError, which says `expected` of it, for an index that is not below `count`."""
    if rows.numel():
        low, high = (int(x) for x in torch.aminmax(rows))
        if low < 0 or high >= count:
            raise ValueError(f"{expected} in [0, {count}), got {low if low < 0 else high}")


def _without_storage(tensor: torch.Tensor) -> str:
    return f"a {type(tensor).__name__} without any (a wrapper, or fake)"


def _describe(tensor: object) -> str:
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    layout = "" if tensor.layout == torch.strided else f", {tensor.layout}"
    return f"{tensor.dtype} on {tensor.device}, shape {tuple(tensor.shape)}{layout}"
